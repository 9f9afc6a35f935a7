/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "base/json.h"
#include "wire/config_disk.h"

static int field_int(const json_t *doc, const char *name, int64_t min, int64_t max, int64_t *out,
                     struct err *e)
{
    const json_t *v = json_object_get(doc, name);

    if (!json_is_integer(v) || json_integer_value(v) < min || json_integer_value(v) > max)
        return err_set(e, ERR_INVALID, "the exit record's \"%s\" is missing or out of range", name);
    *out = json_integer_value(v);
    return 0;
}

static int fill(const json_t *doc, struct exit_record *out, struct err *e)
{
    const json_t *oom = json_object_get(doc, "oom");
    const json_t *message = json_object_get(doc, "message");
    struct exit_record r = {.oom = json_is_true(oom),
                            .is_early = json_is_true(json_object_get(doc, "early"))};
    int64_t incarnation;
    int64_t code;
    int64_t sig;
    size_t len;

    if (field_int(doc, "incarnation", 0, INT64_MAX, &incarnation, e) < 0 ||
        field_int(doc, "code", 0, 255, &code, e) < 0 ||
        field_int(doc, "signal", 0, 64, &sig, e) < 0 ||
        field_int(doc, "at_us", INT64_MIN, INT64_MAX, &r.at_us, e) < 0)
        return -1;
    if (!json_is_boolean(oom) || !json_is_string(message))
        return err_set(e, ERR_INVALID, "the exit record misses a field or has one of a wrong type");
    r.incarnation = (uint64_t)incarnation;
    r.code = (int32_t)code;
    r.signal = (int32_t)sig;
    len = json_string_length(message);
    memcpy(r.message, json_string_value(message), len < EXIT_MESSAGE_MAX ? len : EXIT_MESSAGE_MAX);
    *out = r;
    return 0;
}

int exit_record_parse(const char *json, size_t len, struct exit_record *out, struct err *e)
{
    json_t *doc = parse_json(json, len, e);
    int rc;

    if (!doc)
        return err_wrap(e, "exit record");
    rc = fill(doc, out, e);
    json_decref(doc);
    return rc;
}

int exit_sector_read(const unsigned char in[EXIT_SECTOR], struct exit_record *out, struct err *e)
{
    const char *json;
    size_t len;
    int found = exit_sector_find(in, &json, &len, e);

    if (found == 1 && exit_record_parse(json, len, out, e) < 0)
        return -1;
    return found;
}
