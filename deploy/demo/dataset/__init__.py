"""KuaiRand, the stream of the demo."""
