"""The stream that the demo replays: KuaiRand."""
