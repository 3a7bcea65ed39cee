"""Evaluation of models: LAMBADA with the protocol of RWKV's published results, and lm-eval tasks.

scoring         log probabilities of continuations, in batches
documents       the documents of LAMBADA, or those of a file
lambada         perplexity and accuracy over documents
results_file    a file of results per document, to resume an interrupted evaluation
peak_memory     the peak memory use of the process
cost            comparison of a quantized model with the original
intervals       confidence intervals of means, shares and changes
questions       questions with one right answer, and the answers of two models
exercises       accuracy on the built-in model's held-out questions
lm_eval_model   the adapter of a model to EleutherAI's lm-evaluation-harness (needs lm_eval)
lm_eval_tasks   running tasks of the harness
"""
