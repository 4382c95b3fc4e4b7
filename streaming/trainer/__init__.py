"""The online trainer: examples become rows and dense parameters, published to the replicas."""
