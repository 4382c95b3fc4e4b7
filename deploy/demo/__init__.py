"""Demos: a stream through the real processes, and a report of the gain of online learning. Run them by `python -m monolith_demo`.

- dataset: KuaiRand, and generated news-like lists, as streams of impressions, actions and stored features
- driver: the run: services and processes, history, live replay, `kafka_broker`
- report: measures, baselines, tables, plots and the HTML page
"""
