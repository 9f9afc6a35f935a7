/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/text.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"

void url_puts(struct buf *b, const char *s)
{
    static const char unreserved[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";

    for (; *s; s++) {
        if (strchr(unreserved, *s))
            buf_append(b, s, 1);
        else
            buf_printf(b, "%%%02X", (unsigned)(unsigned char)*s);
    }
}

static char *path_of(const char *collection, const char *name, const char *rest)
{
    auto_buf struct buf b = BUF(1 << 20);

    buf_puts(&b, collection);
    url_puts(&b, name);
    buf_puts(&b, rest);
    return mem_strdup(buf_str(&b));
}

char *instance_path(const char *name, const char *rest)
{
    return path_of("/instances/", name, rest);
}

char *image_path(const char *name)
{
    return path_of("/images/", name, "");
}

/* NULL once something that is not UTF-8 was to be added. */
static json_t *add_word(json_t *list, const char *word, size_t len)
{
    if (list && json_array_append_new(list, json_stringn(word, len)) == 0)
        return list;
    json_decref(list);
    return NULL;
}

json_t *words_from(int n, char **words)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++)
        list = add_word(list, words[i], strlen(words[i]));
    return list;
}

static json_t *split_words(const char *text)
{
    static const char blanks[] = " \t\n";
    json_t *list = json_array();

    while (*(text += strspn(text, blanks))) {
        size_t n = strcspn(text, blanks);

        list = add_word(list, text, n);
        text += n;
    }
    return list;
}

json_t *words_parse(const char *text)
{
    struct err ignored = {0};
    json_t *list;
    const json_t *word;
    size_t i;

    if (*text != '[')
        return split_words(text);
    list = parse_json(text, strlen(text), &ignored);
    json_array_foreach(list, i, word)
    {
        if (!json_is_string(word)) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

bool pair_add(json_t *object, const char *pair)
{
    const char *equals = strchr(pair, '=');
    auto_free char *key = NULL;

    if (!equals || equals == pair)
        return false;
    key = mem_printf("%.*s", (int)(equals - pair), pair);
    return json_object_set_new(object, key, json_string(equals + 1)) == 0;
}

bool env_add(json_t *object, const char *word)
{
    const char *value;

    if (strchr(word, '='))
        return pair_add(object, word);
    value = getenv(word);
    return *word && (!value || json_object_set_new(object, word, json_string(value)) == 0);
}

char *state_name(const char *typed)
{
    char *s = mem_strdup(typed);

    for (char *c = s; *c; c++)
        *c = (char)(c == s ? toupper((unsigned char)*c) : tolower((unsigned char)*c));
    return s;
}

const char *text_of(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : "";
}

void text_print(FILE *to, const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        unsigned char next = (unsigned char)s[1];

        if (c < 0x20 || c == 0x7f)
            fputc('?', to);
        else if (c == 0xc2 && next >= 0x80 && next < 0xa0) { /* the control characters C1 */
            fputc('?', to);
            s++;
        } else
            fputc(c, to);
    }
}

const char *image_short(const char *name)
{
    static const char hub[] = "docker.io/library/";

    return strncmp(name, hub, sizeof(hub) - 1) == 0 ? name + sizeof(hub) - 1 : name;
}

const char *age_text(const char *since, char out[AGE_SIZE])
{
    static const struct {
        int64_t below; /* seconds */
        int64_t unit;
        char letter;
    } steps[] = {{120, 1, 's'}, {7200, 60, 'm'}, {172800, 3600, 'h'}, {INT64_MAX, 86400, 'd'}};
    int64_t at;
    int64_t age;
    size_t i = 0;

    out[0] = '\0';
    if (!time_parse(since, &at))
        return out;
    age = (wall_us() - at) / 1000000;
    if (age < 0)
        age = 0; /* the daemon's clock is ahead */
    while (age >= steps[i].below)
        i++;
    (void)snprintf(out, AGE_SIZE, "%" PRId64 "%c", age / steps[i].unit, steps[i].letter);
    return out;
}

bool format_parse(const char *word, enum format *out)
{
    static const char *const words[] = {
        [FORMAT_TABLE] = "table", [FORMAT_JSON] = "json", [FORMAT_JSONL] = "jsonl"};

    if (!word)
        return true;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strcmp(word, words[i]) == 0) {
            *out = (enum format)i;
            return true;
        }
    }
    return false;
}

void json_print(const json_t *doc, enum format format)
{
    const json_t *item;
    size_t i;

    if (format != FORMAT_JSONL || !json_is_array(doc)) {
        json_dumpf(doc, stdout, format == FORMAT_JSONL ? JSON_COMPACT : JSON_INDENT(2));
        putchar('\n');
        return;
    }
    json_array_foreach(doc, i, item)
    {
        json_dumpf(item, stdout, JSON_COMPACT);
        putchar('\n');
    }
}
