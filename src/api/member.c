/* SPDX-License-Identifier: Apache-2.0 */
#include "api/member.h"

#include <string.h>

int json_bad(struct err *e, const char *slug, const char *text, const char *what)
{
    err_set(e, ERR_INVALID, "%s %s", what, text);
    return err_slug(e, slug);
}

/* Member access that refuses another type. Absent and null are the same: NULL. */
int json_member(const json_t *body, const char *key, json_type type, const json_t **out,
                struct err *e)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "must be an object",
        [JSON_ARRAY] = "must be an array",
        [JSON_STRING] = "must be a string",
        [JSON_INTEGER] = "must be an integer",
        [JSON_TRUE] = "must be true or false",
    };
    const json_t *v = json_object_get(body, key);

    *out = NULL;
    if (!v || json_is_null(v))
        return 0;
    if (type == JSON_TRUE ? !json_is_boolean(v) : json_typeof(v) != type)
        return json_bad(e, "Bad Request", names[type], key);
    *out = v;
    return 0;
}

int json_text_member(const json_t *body, const char *key, const char **out, struct err *e)
{
    const json_t *v;

    if (json_member(body, key, JSON_STRING, &v, e) < 0)
        return -1;
    *out = json_string_value(v);
    return *out && strlen(*out) != json_string_length(v)
               ? json_bad(e, "Bad Request", "must not hold a NUL", key)
               : 0;
}

int json_bool_member(const json_t *body, const char *key, bool otherwise, bool *out, struct err *e)
{
    const json_t *v;

    if (json_member(body, key, JSON_TRUE, &v, e) < 0)
        return -1;
    *out = v ? json_is_true(v) : otherwise;
    return 0;
}

int json_int_member(const json_t *body, const char *key, json_int_t max, json_int_t *out,
                    struct err *e)
{
    const json_t *v;

    if (json_member(body, key, JSON_INTEGER, &v, e) < 0)
        return -1;
    *out = json_integer_value(v);
    if (*out >= 0 && *out <= max)
        return 0;
    err_set(e, ERR_INVALID, "%s must be from 0 to %lld", key, (long long)max);
    return err_slug(e, "Bad Request");
}
