"""Measuring models: LAMBADA with the protocol of the published figures, and lm-eval's tasks.

scoring     how probable a model finds continuations, in batches
documents   where the documents of LAMBADA come from
lambada     perplexity and accuracy over documents
results     a file of results per document, to go on from
memory      the most memory that the process has held
harness     a model as EleutherAI's harness wants it (needs lm_eval)
tasks       running the harness
"""
