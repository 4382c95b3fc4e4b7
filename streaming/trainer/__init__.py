"""The online trainer: learns examples and publishes rows and dense parameters to the replicas."""
