/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Columns that are as wide as what is in them. Cells are copied; colours are
 * used on a terminal only, and not where NO_COLOR is set.
 */
#pragma once

#include <stddef.h>

enum colour { COLOUR_NONE, COLOUR_GREEN, COLOUR_YELLOW, COLOUR_RED, COLOUR_DIM };

struct columns {
    struct table_cell {
        char *text;
        enum colour colour;
    } * cells; /* row by row, the headings first */
    size_t n;
    size_t capacity;
    size_t n_columns;
};
#define auto_columns __attribute__((cleanup(columns_free)))

void columns_begin(struct columns *t, size_t n_columns, const char *const *headings);
void columns_add(struct columns *t, const char *text, enum colour colour);
void columns_print(const struct columns *t); /* on standard output */
void columns_free(struct columns *t);
