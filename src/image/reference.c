/* SPDX-License-Identifier: Apache-2.0 */
#include "image/reference.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* A piece of the text; the input is never written to. */
struct piece {
    const char *p;
    size_t n;
};

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_lower(char c)
{
    return c >= 'a' && c <= 'z';
}

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static bool is_alnum(char c)
{
    return is_digit(c) || is_lower(c) || is_upper(c);
}

static bool is_lower_hex(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (!is_digit(p[i]) && !(p[i] >= 'a' && p[i] <= 'f'))
            return false;
    }
    return true;
}

static bool has(struct piece s, char c)
{
    return memchr(s.p, c, s.n) != NULL;
}

/* Takes what stands before the first c off the front; false and untouched where there is no c. */
static bool cut(struct piece *rest, char c, struct piece *front)
{
    const char *at = memchr(rest->p, c, rest->n);

    if (!at)
        return false;
    *front = (struct piece){rest->p, (size_t)(at - rest->p)};
    rest->p = at + 1;
    rest->n -= front->n + 1;
    return true;
}

/* One label of a host name: letters, digits, and hyphens inside. */
static bool is_label(struct piece s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!is_alnum(s.p[i]) && !(s.p[i] == '-' && i > 0 && i + 1 < s.n))
            return false;
    }
    return s.n > 0;
}

static bool is_port(struct piece s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!is_digit(s.p[i]))
            return false;
    }
    return s.n > 0;
}

static bool is_ipv6(struct piece s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!is_digit(s.p[i]) && s.p[i] != ':' && !(s.p[i] >= 'a' && s.p[i] <= 'f') &&
            !(s.p[i] >= 'A' && s.p[i] <= 'F'))
            return false;
    }
    return s.n > 0;
}

static bool is_host(struct piece s)
{
    struct piece label;
    struct piece host;

    if (s.n > 0 && s.p[0] == '[') {
        s.p++;
        s.n--;
        if (!cut(&s, ']', &host) || !is_ipv6(host))
            return false;
        return s.n == 0 || (s.p[0] == ':' && is_port((struct piece){s.p + 1, s.n - 1}));
    }
    if (cut(&s, ':', &host)) {
        if (!is_port(s))
            return false;
        s = host;
    }
    while (cut(&s, '.', &label)) {
        if (!is_label(label))
            return false;
    }
    return is_label(s);
}

/* Lower-case letters and digits, parted by one '.', one or two '_', or any number of '-'. */
static bool is_path_component(struct piece s)
{
    size_t i = 0;

    while (i < s.n) {
        size_t word = i;
        size_t mark;

        while (i < s.n && (is_lower(s.p[i]) || is_digit(s.p[i])))
            i++;
        if (i == word)
            return false; /* begins with a mark, or two kinds of them meet */
        if (i == s.n)
            return true;
        mark = i;
        while (i < s.n && s.p[i] == s.p[mark])
            i++;
        if (!(s.p[mark] == '.' && i - mark == 1) && !(s.p[mark] == '_' && i - mark <= 2) &&
            s.p[mark] != '-')
            return false;
    }
    return false; /* empty, or ends with a mark */
}

static bool is_path(struct piece s)
{
    struct piece component;

    while (cut(&s, '/', &component)) {
        if (!is_path_component(component))
            return false;
    }
    return is_path_component(s);
}

static bool is_tag(struct piece s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!is_alnum(s.p[i]) && s.p[i] != '_' && !(i > 0 && (s.p[i] == '.' || s.p[i] == '-')))
            return false;
    }
    return s.n > 0 && s.n <= REF_TAG_MAX;
}

static bool has_upper(struct piece s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (is_upper(s.p[i]))
            return true;
    }
    return false;
}

static bool equals(struct piece s, const char *text)
{
    return s.n == strlen(text) && memcmp(s.p, text, s.n) == 0;
}

/*
 * The first component is a host if nothing else can look like it: it has a dot
 * or a port, is "localhost", or has capitals, which a path may not have.
 */
static struct piece cut_host(struct piece *rest)
{
    struct piece whole = *rest;
    struct piece host;

    if (cut(rest, '/', &host) &&
        (has(host, '.') || has(host, ':') || equals(host, "localhost") || has_upper(host)))
        return equals(host, "index.docker.io") ? (struct piece){"docker.io", 9} : host;
    *rest = whole;
    return (struct piece){"docker.io", 9};
}

static void copy(char *to, struct piece s)
{
    memcpy(to, s.p, s.n);
    to[s.n] = '\0';
}

/* Returns what is wrong with it, or NULL. */
static const char *parse(struct piece rest, struct image_ref *ref)
{
    struct piece front;
    struct piece host;
    const char *colon;
    bool is_library;

    if (cut(&rest, '@', &front)) {
        if (rest.n != DIGEST_LEN)
            return "the digest is not sha256: and 64 hexadecimal digits";
        copy(ref->digest, rest);
        if (!digest_is_valid(ref->digest))
            return "the digest is not sha256: and 64 hexadecimal digits";
        rest = front;
    }
    if (rest.n == DIGEST_HEX_LEN && is_lower_hex(rest.p, rest.n))
        return "a name cannot be 64 hexadecimal digits";
    host = cut_host(&rest);
    colon = memchr(rest.p, ':', rest.n);
    if (colon) {
        struct piece tag = {colon + 1, (size_t)(rest.p + rest.n - colon) - 1};

        if (!is_tag(tag))
            return "the tag is not 1 to 128 letters, digits, '_', '.' or '-'";
        copy(ref->tag, tag);
        rest.n -= tag.n + 1;
    } else if (!ref->digest[0]) {
        copy(ref->tag, (struct piece){"latest", 6});
    }
    if (has_upper(rest))
        return "the repository name must be in lower case";
    if (!is_host(host) || !is_path(rest))
        return "it is not [host[:port]/]name[/name...][:tag][@digest]";
    is_library = equals(host, "docker.io") && !has(rest, '/');
    if (host.n + 1 + (is_library ? 8 : 0) + rest.n > REF_NAME_MAX)
        return "the name is longer than 255 characters";
    (void)snprintf(ref->name,
                   sizeof(ref->name),
                   "%.*s/%s%.*s",
                   (int)host.n,
                   host.p,
                   is_library ? "library/" : "",
                   (int)rest.n,
                   rest.p);
    return NULL;
}

int image_ref_parse(const char *s, struct image_ref *out, struct err *e)
{
    size_t n = strnlen(s, REF_TEXT_SIZE);
    struct image_ref ref = {0};
    const char *wrong = n < REF_TEXT_SIZE ? parse((struct piece){s, n}, &ref) : "it is too long";

    if (wrong) {
        err_set(e, ERR_INVALID, "invalid image reference: %s", wrong);
        return err_slug(e, "invalid_name");
    }
    *out = ref;
    return 0;
}

const char *image_ref_text(const struct image_ref *ref, char out[REF_TEXT_SIZE])
{
    (void)snprintf(out,
                   REF_TEXT_SIZE,
                   "%s%s%s%s%s",
                   ref->name,
                   ref->tag[0] ? ":" : "",
                   ref->tag,
                   ref->digest[0] ? "@" : "",
                   ref->digest);
    return out;
}
