"""Tokenizer files of other libraries, read as data and converted to tokenizer.json."""
