/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <jansson.h>

#include "api/spec_data.h"
#include "base/json.h"
#include "unit.h"

static void the_embedded_json_describes_the_api(void **state)
{
    struct err e = {0};
    json_t *doc = parse_json((const char *)spec_json, spec_json_len, &e);

    (void)state;
    assert_non_null(doc);
    assert_string_equal(json_string_value(json_object_get(doc, "openapi")), "3.1.0");
    assert_non_null(json_object_get(json_object_get(doc, "paths"), "/instances"));
    json_decref(doc);
}

static void the_embedded_yaml_is_the_whole_file(void **state)
{
    static const char first[] = "# SPDX";

    (void)state;
    assert_true(spec_yaml_len > spec_json_len / 4);
    assert_memory_equal(spec_yaml, first, sizeof(first) - 1);
    assert_int_equal(spec_yaml[spec_yaml_len - 1], '\n');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        checked_test(the_embedded_json_describes_the_api),
        checked_test(the_embedded_yaml_is_the_whole_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
