"""The field's published data formats, turned into shards: one module and one function each."""
