"""The common tests of transformers, run with the classes of wkv.hf; see __main__.py."""
