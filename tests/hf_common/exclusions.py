"""Tests of transformers that are not run, each with the reason."""

EXCLUDED = {
    "test_keep_in_fp32_modules_strict_also_hardcode_fp32": (
        "a rule for the library's own models: parameters in the list are created in float32 even "
        "under another default dtype"
    ),
}
"""Test name and reason, for every generation."""

RELEASES = {
    "test_keep_in_fp32_modules_exist": (
        "one class has the parameters of three releases of RWKV-5, and none has all of them"
    )
}

EXCLUDED_IN = {
    "5.0": RELEASES,
    "5.2": RELEASES,
    "7a": dict.fromkeys(
        ("test_inputs_embeds", "test_inputs_embeds_matches_input_ids"),
        "the channel mix depends on the ids; embeddings alone are refused with an error",
    ),
}
"""Generation, and its excluded tests with reasons."""
