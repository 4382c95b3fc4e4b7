"""Streams of the demos: KuaiRand, and a generator of list-wise impressions (`listwise`)."""
