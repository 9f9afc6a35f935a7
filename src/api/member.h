/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Members of a request's body, by type. Absent and null are the same: NULL, or what
 * is given as otherwise. Another type is ERR_INVALID that names the member.
 */
#pragma once

#include <stdbool.h>

#include <jansson.h>

#include "base/err.h"

int json_member(const json_t *body, const char *key, json_type type, const json_t **out,
                struct err *e); /* JSON_TRUE stands for a boolean */
int json_text_member(const json_t *body, const char *key, const char **out, struct err *e);
int json_bool_member(const json_t *body, const char *key, bool otherwise, bool *out, struct err *e);
int json_int_member(const json_t *body, const char *key, json_int_t max, json_int_t *out,
                    struct err *e); /* from 0; 0 if absent */

/* "<what> <text>", with the API's word for it (NULL: invalid_request). Returns -1. */
int json_bad(struct err *e, const char *slug, const char *text, const char *what);
