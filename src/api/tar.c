/* SPDX-License-Identifier: Apache-2.0 */
#include "api/tar.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/parse.h"

/* POSIX.1-2017, pax, "ustar Interchange Format"; and GNU tar's manual, "Basic Tar Format". */
struct header {
    char name[100];
    char mode[8];
    char uid[8];
    char gid[8];
    char size[12];
    char mtime[12];
    char checksum[8];
    char type;
    char link[100];
    char magic[8]; /* "ustar\0" "00", or GNU's "ustar  \0" */
    char user[32];
    char group[32];
    char major[8];
    char minor[8];
    char prefix[155];
    char filling[12];
};
_Static_assert(sizeof(struct header) == TAR_BLOCK, "a header is a block");

enum { META_MAX = 64 * 1024 }; /* of what a pax header says, or a long name */

struct tar_reader {
    const struct tar_sink *sink;
    void *arg;
    enum { HEADER, META, OFFER, CONTENT, SKIP, END } state;
    struct header block;
    size_t have;     /* of the block */
    uint64_t left;   /* of the content or what else is under way, without its padding */
    size_t padding;  /* behind it */
    bool is_wanted;  /* META: a kind that we look into */
    struct buf meta; /* its content */

    /* What headers in front of the next entry have said of it. */
    char *path;
    char *link;
    struct guest_entry said;
    bool has_size;
    bool has_uid;
    bool has_gid;

    char *entry_path; /* of the one that is offered */
    char *entry_link;
    struct guest_entry entry;
};

/* --- reading: fields --- */

static int bad(struct err *e, const char *what)
{
    return err_set(e, ERR_INVALID, "not a tar archive that can be read: %s", what);
}

/* Octal digits among blanks and NULs, or GNU's big-endian binary. */
static bool number(const char *field, size_t len, uint64_t *out)
{
    const unsigned char *p = (const unsigned char *)field;
    uint64_t v = 0;
    size_t i = 0;

    if (p[0] & 0x80) {
        for (i = 0; i < len; i++) {
            if (v >> 55 || (p[0] & 0x40)) /* beyond what a file may have, or negative */
                return false;
            v = v << 8 | (i ? p[i] : p[i] & 0x3fu);
        }
        *out = v;
        return true;
    }
    while (i < len && p[i] == ' ')
        i++;
    for (; i < len && p[i] >= '0' && p[i] <= '7'; i++)
        v = v << 3 | (uint64_t)(p[i] - '0');
    *out = v;
    return i == len || p[i] == ' ' || p[i] == '\0';
}

static uint64_t sum_of(const struct header *h)
{
    const unsigned char *p = (const unsigned char *)h;
    uint64_t sum = 0;

    for (size_t i = 0; i < sizeof(*h); i++) {
        bool is_sum = i >= offsetof(struct header, checksum) && i < offsetof(struct header, type);

        sum += is_sum ? ' ' : p[i];
    }
    return sum;
}

static bool is_zero(const struct header *h)
{
    const char *p = (const char *)h;

    return p[0] == '\0' && memcmp(p, p + 1, sizeof(*h) - 1) == 0;
}

/* A copy without slashes at its ends and "." between them; NULL for one that climbs. */
static char *clean_path(const char *path)
{
    char *out = mem_zalloc(strlen(path) + 1, 1);
    size_t n = 0;

    while (*path) {
        size_t len = strcspn(path, "/");

        if (len == 2 && memcmp(path, "..", 2) == 0) {
            free(out);
            return NULL;
        }
        if (len > 0 && !(len == 1 && *path == '.')) {
            if (n > 0)
                out[n++] = '/';
            memcpy(out + n, path, len);
            n += len;
        }
        path += len + (path[len] == '/');
    }
    return out;
}

/* --- reading: what stands in front of an entry --- */

static void replace(char **slot, char *with)
{
    free(*slot);
    *slot = with;
}

/* "1700000000.123456789" */
static bool take_time(struct guest_entry *entry, const char *value)
{
    auto_buf struct buf seconds = BUF(32);
    const char *dot = strchr(value, '.');
    bool is_negative = *value == '-';
    uint64_t s;
    uint32_t scale = 100000000;

    value += is_negative;
    buf_append(&seconds, value, dot ? (size_t)(dot - value) : strlen(value));
    if (!buf_ok(&seconds) || !parse_u64(buf_str(&seconds), 0, INT64_MAX, &s))
        return false;
    entry->mtime_s = is_negative ? -(int64_t)s : (int64_t)s;
    entry->mtime_ns = 0;
    for (const char *p = dot ? dot + 1 : ""; *p >= '0' && *p <= '9'; p++, scale /= 10)
        entry->mtime_ns += scale * (uint32_t)(*p - '0');
    entry->has_mtime = true;
    return true;
}

static int take_record(struct tar_reader *r, const char *key, const char *value, struct err *e)
{
    uint64_t v;

    if (strncmp(key, "GNU.sparse.", 11) == 0)
        return err_set(e, ERR_UNSUPPORTED, "the archive holds a sparse file; make it without");
    if (strcmp(key, "path") == 0)
        replace(&r->path, mem_strdup(value));
    else if (strcmp(key, "linkpath") == 0)
        replace(&r->link, mem_strdup(value));
    else if (strcmp(key, "mtime") == 0)
        return take_time(&r->said, value) ? 0 : bad(e, "a bad time");
    else if (strcmp(key, "size") == 0) {
        r->has_size = true;
        return parse_u64(value, 0, INT64_MAX, &r->said.size) ? 0 : bad(e, "a bad size");
    } else if (strcmp(key, "uid") == 0 || strcmp(key, "gid") == 0) {
        if (!parse_u64(value, 0, UINT32_MAX, &v))
            return bad(e, "a bad owner");
        *(*key == 'u' ? &r->has_uid : &r->has_gid) = true;
        *(*key == 'u' ? &r->said.uid : &r->said.gid) = (uint32_t)v;
    }
    return 0;
}

/* "LENGTH key=value\n", again and again. */
static int take_records(struct tar_reader *r, struct err *e)
{
    char *p = r->meta.data;
    size_t left = r->meta.len;

    while (left > 0) {
        char *blank = memchr(p, ' ', left);
        uint64_t len;
        char *equals;

        if (!blank)
            return bad(e, "a pax record without its length");
        *blank = '\0';
        if (!parse_u64(p, 5, left, &len) || p[len - 1] != '\n' || p + len < blank + 2)
            return bad(e, "a pax record of a wrong length");
        p[len - 1] = '\0';
        equals = strchr(blank + 1, '=');
        if (!equals || strlen(blank + 1) != (size_t)(p + len - 1 - (blank + 1)))
            return bad(e, "a pax record that is no text");
        *equals = '\0';
        if (take_record(r, blank + 1, equals + 1, e) < 0)
            return -1;
        p += len;
        left -= len;
    }
    return 0;
}

static int take_meta(struct tar_reader *r, struct err *e)
{
    if (!buf_ok(&r->meta))
        return bad(e, "names that are too long");
    if (r->is_wanted && r->block.type == 'x' && take_records(r, e) < 0)
        return -1;
    if (r->is_wanted && r->block.type == 'L')
        replace(&r->path, mem_strdup(buf_str(&r->meta)));
    if (r->is_wanted && r->block.type == 'K')
        replace(&r->link, mem_strdup(buf_str(&r->meta)));
    buf_free(&r->meta);
    r->state = SKIP;
    return 0;
}

/* --- reading: an entry --- */

static char *name_of(const struct header *h)
{
    bool has_prefix = memcmp(h->magic, "ustar", 6) == 0 && *h->prefix;

    return has_prefix ? mem_printf("%.155s/%.100s", h->prefix, h->name)
                      : mem_printf("%.100s", h->name);
}

static int fill_entry(struct tar_reader *r, struct err *e)
{
    const struct header *h = &r->block;
    struct guest_entry *entry = &r->entry;
    uint64_t mode;
    uint64_t uid;
    uint64_t gid;
    uint64_t mtime;

    if (!number(h->mode, sizeof(h->mode), &mode) || !number(h->uid, sizeof(h->uid), &uid) ||
        !number(h->gid, sizeof(h->gid), &gid) || uid > UINT32_MAX || gid > UINT32_MAX)
        return bad(e, "a field that is no number");
    if (!number(h->mtime, sizeof(h->mtime), &mtime) || mtime > INT64_MAX)
        mtime = 0; /* before 1970 */
    *entry = r->said;
    entry->mode = (uint32_t)mode & 07777;
    entry->uid = r->has_uid ? r->said.uid : (uint32_t)uid;
    entry->gid = r->has_gid ? r->said.gid : (uint32_t)gid;
    entry->has_owner = true;
    if (!entry->has_mtime) {
        entry->has_mtime = true;
        entry->mtime_s = (int64_t)mtime;
    }
    return 0;
}

static int check_names(const struct tar_reader *r, const char *as_given, struct err *e)
{
    if (!r->entry_path)
        return err_set(e, ERR_INVALID, "%.200s: \"..\" may not be in a path", as_given);
    if (strlen(r->entry_path) > GUEST_NAME_MAX || strlen(r->entry_link) > GUEST_NAME_MAX)
        return err_set(e, ERR_TOO_LARGE, "%.200s...: the name is too long", as_given);
    return 0;
}

/* What kind of entry, and what is done with it. */
static int judge(struct tar_reader *r, const char *path, struct err *e)
{
    size_t len = strlen(path);

    switch (r->block.type) {
    case '0':
    case '\0':
    case '7':
        r->entry.kind = len > 0 && path[len - 1] == '/' ? GUEST_DIRECTORY : GUEST_FILE;
        break;
    case '2':
        r->entry.kind = GUEST_SYMLINK;
        break;
    case '5':
        r->entry.kind = GUEST_DIRECTORY;
        break;
    case '3':
    case '4':
    case '6':
    case 'V':
        r->state = SKIP;
        return 0;
    case '1':
        r->entry.kind = GUEST_HARD_LINK;
        break;
    default:
        return err_set(e, ERR_UNSUPPORTED, "%.200s: a kind of entry that cannot be carried", path);
    }
    r->state = *r->entry_path ? OFFER : SKIP; /* "./" is where the entries go to */
    return 0;
}

/* A hard link leads to another path of the archive. */
static int resolve_link(struct tar_reader *r, const char *path, struct err *e)
{
    char *target;

    if (r->entry.kind != GUEST_HARD_LINK)
        return 0;
    target = clean_path(r->entry_link);
    if (!target || !*target) {
        free(target);
        return err_set(e,
                       ERR_INVALID,
                       "%.200s: a hard link to %.200s, which is no path of the archive",
                       path,
                       r->entry_link);
    }
    replace(&r->entry_link, target);
    return 0;
}

static bool is_link(const struct guest_entry *entry)
{
    return entry->kind == GUEST_SYMLINK || entry->kind == GUEST_HARD_LINK;
}

static int take_entry(struct tar_reader *r, struct err *e)
{
    char *path = r->path ? r->path : name_of(&r->block);
    int rc;

    r->path = NULL;
    replace(&r->entry_path, clean_path(path));
    replace(&r->entry_link, r->link ? r->link : mem_printf("%.100s", r->block.link));
    r->link = NULL;
    rc = fill_entry(r, e) < 0 || check_names(r, path, e) < 0 || judge(r, path, e) < 0 ||
                 resolve_link(r, path, e) < 0
             ? -1
             : 0;
    free(path);
    r->entry.path = r->entry_path;
    r->entry.link_target = is_link(&r->entry) ? r->entry_link : NULL;
    r->entry.size = r->entry.kind == GUEST_FILE ? r->left : 0;
    r->said = (struct guest_entry){0};
    r->has_size = r->has_uid = r->has_gid = false;
    return rc;
}

static int take_header(struct tar_reader *r, struct err *e)
{
    const struct header *h = &r->block;
    bool is_meta;
    uint64_t sum;

    r->have = 0;
    if (is_zero(h)) {
        r->state = END;
        return 0;
    }
    if (!number(h->checksum, sizeof(h->checksum), &sum) || sum != sum_of(h))
        return bad(e, "a header whose checksum is wrong");
    if (!number(h->size, sizeof(h->size), &r->left) || r->left > INT64_MAX)
        return bad(e, "a bad size");
    is_meta = memchr("xgLK", h->type, 4) != NULL;
    if (!is_meta && r->has_size)
        r->left = r->said.size;
    r->padding = (size_t)(-r->left % TAR_BLOCK);
    if (!is_meta)
        return take_entry(r, e);
    r->is_wanted = h->type != 'g';
    r->state = META;
    return r->left > 0 ? 0 : take_meta(r, e);
}

/* --- reading: bytes --- */

/* Uses some of what is there; 0 when the sink has no room. */
static ssize_t feed_some(struct tar_reader *r, const char *data, size_t len, struct err *e)
{
    size_t n = len < r->left ? len : (size_t)r->left;

    switch (r->state) {
    case HEADER:
        n = len < TAR_BLOCK - r->have ? len : TAR_BLOCK - r->have;
        memcpy((char *)&r->block + r->have, data, n);
        r->have += n;
        return r->have == TAR_BLOCK && take_header(r, e) < 0 ? -1 : (ssize_t)n;
    case META:
        if (r->is_wanted)
            buf_append(&r->meta, data, n);
        r->left -= n;
        return r->left == 0 && take_meta(r, e) < 0 ? -1 : (ssize_t)n;
    case CONTENT:
        n = r->sink->data(r->arg, data, n);
        r->left -= n;
        return (ssize_t)n;
    case SKIP:
        if (r->left == 0) {
            n = len < r->padding ? len : r->padding;
            r->padding -= n;
        } else
            r->left -= n;
        return (ssize_t)n;
    case END:
        return (ssize_t)len;
    case OFFER:
        break;
    }
    return 0;
}

/* States that need no bytes to be left. False when the sink has no room. */
static bool move_on(struct tar_reader *r)
{
    if (r->state == OFFER) {
        if (!r->sink->entry(r->arg, &r->entry))
            return false;
        r->state = r->entry.kind == GUEST_FILE ? CONTENT : SKIP;
    }
    if (r->state == CONTENT && r->left == 0)
        r->state = SKIP;
    if (r->state == SKIP && r->left == 0 && r->padding == 0)
        r->state = HEADER;
    return true;
}

ssize_t tar_feed(struct tar_reader *r, const void *data, size_t len, struct err *e)
{
    size_t used = 0;

    while (move_on(r) && used < len) {
        ssize_t n = feed_some(r, (const char *)data + used, len - used, e);

        if (n < 0)
            return -1;
        if (n == 0)
            break;
        used += (size_t)n;
    }
    return (ssize_t)used;
}

int tar_reader_finish(const struct tar_reader *r, struct err *e)
{
    if (r->state == END || (r->state == HEADER && r->have == 0 && !r->path && !r->link))
        return 0;
    return bad(e, "it ends in the middle");
}

struct tar_reader *tar_reader_new(const struct tar_sink *sink, void *arg)
{
    struct tar_reader *r = mem_new(struct tar_reader);

    r->sink = sink;
    r->arg = arg;
    r->meta = BUF(META_MAX);
    return r;
}

void tar_reader_free(struct tar_reader *r)
{
    if (!r)
        return;
    buf_free(&r->meta);
    free(r->path);
    free(r->link);
    free(r->entry_path);
    free(r->entry_link);
    free(r);
}

/* --- writing --- */

/* Octal digits and a NUL, or, where they do not fit, binary. */
static void put_number(char *field, size_t len, uint64_t v)
{
    if (v >> (3 * (len - 1)) == 0) {
        (void)snprintf(field, len, "%0*llo", (int)len - 1, (unsigned long long)v);
        return;
    }
    for (size_t i = len; i-- > 0; v >>= 8)
        field[i] = (char)v;
    field[0] = (char)(field[0] | 0x80);
}

static void put_header(struct buf *out, struct header *h)
{
    memcpy(h->magic, "ustar  ", sizeof(h->magic));
    (void)snprintf(h->checksum, sizeof(h->checksum), "%06llo", (unsigned long long)sum_of(h));
    h->checksum[7] = ' ';
    buf_append(out, h, sizeof(*h));
}

/* A name that is longer than its field comes as the content of an entry of its own. */
static void put_name(struct buf *out, char type, char field[100], const char *name)
{
    size_t len = strlen(name);
    struct header h = {.name = "././@LongLink", .type = type};

    memcpy(field, name, len < 100 ? len : 100);
    if (len <= 100)
        return;
    put_number(h.mode, sizeof(h.mode), 0);
    put_number(h.uid, sizeof(h.uid), 0);
    put_number(h.gid, sizeof(h.gid), 0);
    put_number(h.size, sizeof(h.size), len + 1);
    put_number(h.mtime, sizeof(h.mtime), 0);
    put_header(out, &h);
    buf_append(out, name, len + 1);
    tar_put_padding(out, len + 1);
}

void tar_put_entry(struct buf *out, const struct guest_entry *entry)
{
    static const char types[] = {[GUEST_FILE] = '0',
                                 [GUEST_DIRECTORY] = '5',
                                 [GUEST_SYMLINK] = '2',
                                 [GUEST_HARD_LINK] = '1'};
    struct header h = {.type = types[entry->kind]};

    if (entry->link_target)
        put_name(out, 'K', h.link, entry->link_target);
    put_name(out, 'L', h.name, entry->path);
    put_number(h.mode, sizeof(h.mode), entry->mode & 07777);
    put_number(h.uid, sizeof(h.uid), entry->uid);
    put_number(h.gid, sizeof(h.gid), entry->gid);
    put_number(h.size, sizeof(h.size), entry->kind == GUEST_FILE ? entry->size : 0);
    put_number(h.mtime, sizeof(h.mtime), entry->mtime_s > 0 ? (uint64_t)entry->mtime_s : 0);
    put_header(out, &h);
}

void tar_put_padding(struct buf *out, uint64_t size)
{
    static const char zeros[TAR_BLOCK];

    buf_append(out, zeros, (size_t)(-size % TAR_BLOCK));
}

void tar_put_end(struct buf *out)
{
    static const char zeros[2 * TAR_BLOCK];

    buf_append(out, zeros, sizeof(zeros));
}
