"""The attacks on the server that once succeeded, and the tests that repeat each of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Attack:
    """An attack: what it tries, and the tests that repeat it.

    Attributes:
        aim: what the attack tries.
        tests: node ids of pytest; without parameters, they mean the tests with all parameters.
    """

    aim: str
    tests: tuple[str, ...]


def _attack(aim: str, **files: str) -> Attack:
    """Return an attack; `files` are names of tests by their file, such as serve_test_guard."""
    tests = [
        f"tests/{file.replace('_test_', '/test_')}.py::{name}"
        for file, names in files.items()
        for name in names.split()
    ]
    return Attack(aim, tuple(tests))


ATTACKS = {
    "R1": _attack(
        "files of others in --cache-dir are deleted",
        batching_test_owned_folder="test_trimming_deletes_the_oldest_files_of_wkv_only "
        "test_a_folder_of_somebody_else_is_refused_and_not_changed "
        "test_files_beside_the_cache_survive_every_trim",
        serve_test_key_value_store="test_files_of_others_in_the_folder_are_never_deleted",
    ),
    "R2": _attack(
        "two requests take all slots",
        batching_test_slot_queue="test_all_work_begins_after_a_bounded_number_of_steps "
        "test_slots_are_shared_equally_between_owners "
        "test_a_stream_of_small_requests_does_not_starve_a_large_one",
        batching_test_fair_scheduler="test_choices_enter_as_slots_become_free "
        "test_a_short_request_waits_for_a_turn_and_not_for_the_end_of_long_ones",
    ),
    "R3": _attack(
        "a large body or answer stops the event loop",
        serve_test_event_loop="test_bodies_are_read_and_built_in_other_threads",
        serve_test_bodies="test_a_body_with_too_many_values_is_refused_before_they_are_validated",
    ),
    "R4": _attack(
        "the ports of Ray are open to all",
        serve_test_ray_token="test_a_token_is_created_for_its_owner_only "
        "test_the_notice_lists_the_ports_and_says_who_can_use_them",
    ),
    "R5": _attack(
        "a response with an id is lost, because the disk is full or the folder is gone",
        serve_test_storage_http="test_a_response_that_cannot_be_stored_is_refused_before_it_begins "
        "test_a_response_in_a_folder_that_was_removed_is_found_again",
        serve_test_key_value_store="test_a_full_disk_is_an_error",
    ),
    "R6": _attack(
        "other users read answers in a folder that existed before",
        serve_test_storage_http="test_all_files_and_folders_are_private",
        batching_test_owned_folder="test_only_the_owner_can_read_it_even_if_the_folder_was_open_"
        "to_all",
        serve_test_key_value_store="test_its_files_are_private_also_in_a_folder_that_existed",
    ),
    "R7": _attack(
        "connections that never finish a request use up all file descriptors",
        serve_test_connections="test_others_are_served_beside_hundreds_that_never_finish_a_request "
        "test_a_request_that_does_not_end_in_time_is_closed",
    ),
    "R8": _attack(
        "long prompts that wait, or an endless file, use up the memory",
        batching_test_fair_scheduler="test_prompts_that_wait_are_limited_by_their_tokens",
        serve_test_batch_files="test_an_endless_input_is_refused "
        "test_an_output_that_is_no_file_is_refused_at_the_start",
    ),
    "R9": _attack(
        "one key pushes out the data of another, or learns what it uses",
        serve_test_key_value_store="test_values_of_one_owner_never_push_out_those_of_others",
        batching_test_eviction="test_one_key_does_not_push_out_the_states_of_another",
        serve_test_guard="test_only_the_first_of_several_keys_reads_the_metrics "
        "test_schemas_of_one_key_are_not_compiled_for_another",
    ),
    "R10": _attack(
        "a mistake of the client is an error of the server",
        serve_test_bodies="test_numbers_that_json_lacks_are_refused_everywhere "
        "test_nothing_in_a_field_is_an_error_of_the_server",
        serve_test_states_http="test_a_state_with_another_dtype_is_refused "
        "test_a_state_that_is_deleted_while_it_is_read_is_unknown",
        unit_test_state_files="test_tensors_that_a_state_cannot_have",
    ),
    "R11": _attack(
        "a text begins a turn of somebody else",
        prompting_test_one_renderer="test_no_text_begins_another_turn "
        "test_an_answer_that_is_continued_begins_no_other_turn",
    ),
    "R12": _attack(
        "line separators in a text break the events of a stream",
        serve_test_event_loop="test_an_event_is_one_line_for_every_client "
        "test_streamed_line_ends_come_whole",
    ),
    "low": _attack(
        "the smaller findings: eviction, leftovers, long numbers, framing, logprobs",
        batching_test_eviction="test_the_number_of_states_does_not_matter",
        batching_test_owned_folder="test_leftovers_of_a_killed_process_go_when_they_are_old",
        unit_test_state_files="test_numbers_of_tokens_that_cannot_be",
        serve_test_guard="test_a_request_with_two_ends_is_refused_and_its_connection_closed",
        serve_test_connections="test_nobody_connects_before_the_model_is_loaded",
        serve_test_states_http="test_a_list_opens_only_files_that_are_new",
    ),
    "held": _attack(
        "what never succeeded: paths, hosts, keys, kills, prompts in logs",
        serve_test_guard="test_no_name_becomes_a_path test_only_its_own_hosts_are_served "
        "test_nothing_is_told_without_a_key test_logs_hold_nothing_that_users_send",
        serve_test_shutdown="test_what_goes_on_ends_and_nothing_new_begins "
        "test_a_killed_server_leaves_whole_states",
    ),
}
"""The attacks by the number of their report."""
