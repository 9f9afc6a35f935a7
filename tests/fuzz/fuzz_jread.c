/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest's small reader takes for JSON, jansson does too, and they read the same out of it.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "agent/config.h"
#include "agent/jread.h"
#include "base/cleanup.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void compare_scalar(struct jread j, const json_t *doc)
{
    if (json_is_string(doc)) {
        auto_free char *s = jread_str(&j);

        if (!s || strcmp(s, json_string_value(doc)) != 0)
            abort();
    }
    if (json_is_integer(doc) && jread_int(&j) != json_integer_value(doc))
        abort();
    if (json_is_boolean(doc) && jread_bool(&j) != json_is_true(doc))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct jread fresh = JREAD((const char *)data, size);
    struct jread j = fresh;
    auto_guest_config struct guest_config c = {0};
    struct err e = {0};
    json_error_t why;
    json_t *doc;

    jread_skip(&j);
    if (jread_done(&j)) {
        doc = json_loadb((const char *)data, size, JSON_DECODE_ANY, &why);
        if (!doc)
            abort();
        compare_scalar(fresh, doc);
        json_decref(doc);
    }
    (void)guest_config_parse((const char *)data, size, &c, &e);
    return 0;
}
