"""Several processes that train one model: how they are started, agree, share out rows, and hold a model in shards."""
