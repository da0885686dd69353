"""Datasets as folders of shards, WebDataset tars or JSON lines, with an index beside each."""
