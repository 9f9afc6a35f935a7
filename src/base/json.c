/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

json_t *parse_json(const char *text, size_t len, struct err *e)
{
    json_error_t why;
    json_t *doc = json_loadb(text, len, JSON_REJECT_DUPLICATES, &why);

    if (!doc)
        err_set(e,
                ERR_INVALID,
                "invalid JSON at line %d, column %d: %s",
                why.line,
                why.column,
                why.text);
    return doc;
}
