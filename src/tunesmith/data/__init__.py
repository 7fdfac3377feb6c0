"""From files of any format to batches: read, parse, encode, store, order, pack, collate, load."""
