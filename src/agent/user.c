/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/user.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/parse.h"

struct slice {
    const char *p;
    size_t n;
};

/* Cuts the text up to the separator off the front. */
static struct slice cut(struct slice *from, char separator)
{
    const char *at = from->n ? memchr(from->p, separator, from->n) : NULL;
    struct slice piece = {from->p, at ? (size_t)(at - from->p) : from->n};
    size_t gone = at ? piece.n + 1 : piece.n;

    from->p += gone;
    from->n -= gone;
    return piece;
}

static struct slice whole(const char *s)
{
    return (struct slice){s, strlen(s)};
}

static bool same(struct slice a, struct slice b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

/* An id: a number below the one that means "leave as it is" to the kernel. */
static bool number(struct slice s, uint32_t *out)
{
    char text[12];
    uint64_t v;

    if (s.n >= sizeof(text))
        return false;
    memcpy(text, s.p, s.n);
    text[s.n] = '\0';
    if (!parse_u64(text, 0, UINT32_MAX - 1, &v))
        return false;
    *out = (uint32_t)v;
    return true;
}

/* name:password:uid:gid:comment:home:shell, name:password:gid:members */
struct entry {
    struct slice field[7];
    uint32_t id;
};

/* Finds the entry with this name or, if want is a number, this id. */
static bool find(struct slice text, struct slice want, struct entry *out)
{
    uint32_t id;
    bool by_id = number(want, &id);

    while (text.n > 0) {
        struct slice line = cut(&text, '\n');
        struct entry en;

        for (size_t i = 0; i < 7; i++)
            en.field[i] = cut(&line, ':');
        if (!number(en.field[2], &en.id))
            continue;
        if ((by_id && en.id == id) || (en.field[0].n > 0 && same(en.field[0], want))) {
            *out = en;
            return true;
        }
    }
    return false;
}

static bool lists(struct slice members, struct slice name)
{
    while (members.n > 0) {
        if (same(cut(&members, ','), name))
            return true;
    }
    return false;
}

static void supplementary(struct slice groups, struct slice name, struct user *u)
{
    while (groups.n > 0 && u->groups_n < USER_GROUPS_MAX) {
        struct slice line = cut(&groups, '\n');
        struct slice field[4];
        uint32_t gid;

        for (size_t i = 0; i < 4; i++)
            field[i] = cut(&line, ':');
        if (number(field[2], &gid) && lists(field[3], name))
            u->groups[u->groups_n++] = gid;
    }
}

int user_resolve(const char *spec, const char *passwd, const char *group, struct user *out,
                 struct err *e)
{
    struct slice group_part = whole(spec);
    struct slice user_part = cut(&group_part, ':');
    struct slice home = {"/", 1};
    struct user u = {0};
    struct entry en;

    if (user_part.n == 0)
        user_part = whole("0");
    if (find(whole(passwd), user_part, &en)) {
        u.uid = en.id;
        if (!number(en.field[3], &u.gid))
            u.gid = 0;
        if (en.field[5].n > 0 && en.field[5].n < sizeof(u.home))
            home = en.field[5];
        if (group_part.n == 0)
            supplementary(whole(group), en.field[0], &u);
    } else if (!number(user_part, &u.uid))
        return err_set(e,
                       ERR_NOT_FOUND,
                       "the image's /etc/passwd has no user \"%.*s\"",
                       (int)user_part.n,
                       user_part.p);
    if (group_part.n > 0) {
        if (find(whole(group), group_part, &en))
            u.gid = en.id;
        else if (!number(group_part, &u.gid))
            return err_set(e,
                           ERR_NOT_FOUND,
                           "the image's /etc/group has no group \"%.*s\"",
                           (int)group_part.n,
                           group_part.p);
    }
    memcpy(u.home, home.p, home.n);
    *out = u;
    return 0;
}
