/* SPDX-License-Identifier: Apache-2.0 */
/* What is changed while a guest runs, or that a VMM which cannot says so; one test each. */
#pragma once

void cpus_and_memory_come_and_go_while_it_runs(void **state);
void a_vm_with_room_for_more_sleeps_and_is_forked(void **state);
void memory_that_was_added_is_not_saved_in_silence(void **state);
void the_balloon_is_set_while_it_runs(void **state);
void a_disk_comes_and_goes_while_it_runs(void **state);
void a_card_comes_and_goes_while_it_runs(void **state);
void what_its_devices_did_is_counted(void **state);
