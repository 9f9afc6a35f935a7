/* SPDX-License-Identifier: Apache-2.0 */
/* The hypervisor state cache (vm/probe.h), with a clock that the test moves. */
#include <string.h>

#include "unit.h"
#include "vm/probe.h"

static const int64_t start = 1000000;

static struct probe observed_at_start(void)
{
    struct probe p;

    probe_init(&p, start);
    return p;
}

/* A question at this time that nobody answers in time. Whether it is to be repeated at once. */
static bool miss(struct probe *p, int64_t at)
{
    bool again;

    assert_true(probe_may_ask(p, at, true));
    probe_asked(p, at);
    (void)probe_missed(p, PROBE_TIMEOUT, 0, &again);
    return again;
}

static bool answer(struct probe *p, int64_t at)
{
    bool counts;

    (void)probe_answered(p, at, &counts);
    return counts;
}

static void an_observation_is_good_for_five_seconds(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    assert_true(probe_is_hit(&p, start));
    assert_true(probe_is_hit(&p, start + 4999));
    assert_false(probe_may_ask(&p, start + 4999, false));
    assert_false(probe_is_hit(&p, start + 5000));
    assert_true(probe_may_ask(&p, start + 5000, false));
}

static void an_answer_makes_it_good_again(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    probe_asked(&p, start + 6000);
    assert_true(answer(&p, start + 6001));
    assert_true(probe_is_hit(&p, start + 11000));
    assert_false(probe_is_hit(&p, start + 11001));
    assert_int_equal(p.result, PROBE_ANSWERED);
}

static void our_own_step_writes_through(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    assert_false(probe_is_hit(&p, start + 9000));
    assert_false(probe_heard(&p, start + 9000)); /* nothing that is shown */
    assert_true(probe_is_hit(&p, start + 9000));
    assert_true(probe_is_hit(&p, start + 13999));
}

static void a_vanished_socket_takes_the_observation_back(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    probe_invalidate(&p);
    assert_false(probe_is_hit(&p, start));
    assert_true(probe_may_ask(&p, start, false));
    assert_int_equal(probe_answers(&p), -1);
    probe_asked(&p, start);
    assert_true(answer(&p, start));
    assert_int_equal(probe_answers(&p), 1);
}

static void fresh_asks_whatever_the_age_but_one_at_a_time(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    assert_true(probe_may_ask(&p, start, true));
    probe_asked(&p, start);
    assert_false(probe_may_ask(&p, start + 400, true));
    assert_false(probe_may_ask(&p, start + 6000, false));
}

static void the_first_miss_shows_and_is_repeated_at_once_and_the_second_is_unknown(void **state)
{
    struct probe p = observed_at_start();
    bool again;

    (void)state;
    probe_asked(&p, start + 6000);
    assert_true(probe_missed(&p, PROBE_TIMEOUT, 0, &again));
    assert_true(again);
    assert_int_equal(probe_answers(&p), 0);
    assert_false(probe_is_unknown(&p));
    assert_int_equal(p.silent_ms, start + 6000);

    probe_asked(&p, start + 6500);
    assert_true(probe_missed(&p, PROBE_TIMEOUT, 0, &again));
    assert_false(again);
    assert_true(probe_is_unknown(&p));
    assert_int_equal(p.silent_ms, start + 6000);
}

static void the_unknown_is_asked_once_a_second_and_heals_by_an_answer(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    assert_true(miss(&p, start + 6000));
    assert_false(miss(&p, start + 6500));
    assert_false(probe_may_ask(&p, start + 7499, true));
    assert_true(probe_may_ask(&p, start + 7500, false));
    assert_false(miss(&p, start + 7500));
    assert_false(probe_may_ask(&p, start + 8499, false));
    probe_asked(&p, start + 8500);
    assert_true(answer(&p, start + 8600));
    assert_false(probe_is_unknown(&p));
    assert_int_equal(probe_answers(&p), 1);
    assert_true(miss(&p, start + 20000)); /* the count began anew */
}

static void an_event_heals_the_unknown(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    assert_true(miss(&p, start + 6000));
    assert_false(miss(&p, start + 6500));
    assert_true(probe_heard(&p, start + 9000));
    assert_false(probe_is_unknown(&p));
    assert_true(probe_is_hit(&p, start + 9001));
}

static void an_event_wins_over_the_older_answer(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    probe_asked(&p, start + 6000);
    (void)probe_heard(&p, start + 6100);
    probe_overtake(&p);
    assert_false(answer(&p, start + 6200)); /* a sign of life, and no word of the state */
    assert_true(probe_is_hit(&p, start + 11199));
    probe_asked(&p, start + 12000);
    (void)probe_heard(&p, start + 12100); /* of something else than the state */
    assert_true(answer(&p, start + 12200));
}

static void after_a_loss_only_an_answer_that_counts_will_do(void **state)
{
    struct probe p = observed_at_start();
    bool again;

    (void)state;
    probe_invalidate(&p);
    assert_false(probe_is_hit(&p, start + 1));
    probe_asked(&p, start + 10);
    (void)probe_heard(&p, start + 20);
    assert_false(probe_is_hit(&p, start + 21)); /* it lives, and may have done anything */
    assert_false(probe_missed(&p, PROBE_TIMEOUT, 0, &again));
    assert_true(again);
    probe_asked(&p, start + 600);
    probe_overtake(&p); /* of something else */
    assert_false(answer(&p, start + 700));
    assert_false(probe_is_hit(&p, start + 701));
    probe_asked(&p, start + 800);
    assert_true(answer(&p, start + 900));
    assert_true(probe_is_hit(&p, start + 901));
}

static void an_event_wins_over_a_missing_answer(void **state)
{
    struct probe p = observed_at_start();
    bool again;

    (void)state;
    probe_asked(&p, start + 6000);
    (void)probe_heard(&p, start + 6100);
    assert_false(probe_missed(&p, PROBE_TIMEOUT, 0, &again));
    assert_false(again);
    assert_int_equal(probe_answers(&p), 1);
}

static void a_question_during_which_our_own_loop_was_late_does_not_count(void **state)
{
    struct probe p = observed_at_start();
    bool again;

    (void)state;
    probe_asked(&p, start + 6000);
    assert_false(probe_missed(&p, PROBE_TIMEOUT, PROBE_LATE_MS + 1, &again));
    assert_true(again);
    assert_int_equal(probe_answers(&p), 1);
    assert_int_equal(p.result, PROBE_NEVER);
    assert_true(miss(&p, start + 7000)); /* the first */
}

static void a_question_that_an_operation_overtakes_says_nothing(void **state)
{
    struct probe p = observed_at_start();

    (void)state;
    probe_asked(&p, start + 6000);
    probe_abandoned(&p);
    assert_int_equal(p.misses, 0);
    assert_true(probe_may_ask(&p, start + 6000, false));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(an_observation_is_good_for_five_seconds),
        checked_test(an_answer_makes_it_good_again),
        checked_test(our_own_step_writes_through),
        checked_test(a_vanished_socket_takes_the_observation_back),
        checked_test(fresh_asks_whatever_the_age_but_one_at_a_time),
        checked_test(the_first_miss_shows_and_is_repeated_at_once_and_the_second_is_unknown),
        checked_test(the_unknown_is_asked_once_a_second_and_heals_by_an_answer),
        checked_test(an_event_heals_the_unknown),
        checked_test(an_event_wins_over_the_older_answer),
        checked_test(after_a_loss_only_an_answer_that_counts_will_do),
        checked_test(an_event_wins_over_a_missing_answer),
        checked_test(a_question_during_which_our_own_loop_was_late_does_not_count),
        checked_test(a_question_that_an_operation_overtakes_says_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
