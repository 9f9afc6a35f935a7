/* SPDX-License-Identifier: Apache-2.0 */
#include "wire/config_disk.h"

#include <string.h>

#include "base/jout.h"

/* Each of the two areas begins with its name and the length of its JSON. */
enum { NAME_LEN = 8, AREA_HEADER = NAME_LEN + 4 };

static const char config_name[] = "HYPCONF1";
static const char exit_name[] = "HYPEXIT1";

static void area_header(unsigned char out[AREA_HEADER], const char *name, size_t len)
{
    memcpy(out, name, NAME_LEN);
    for (int i = 0; i < 4; i++)
        out[NAME_LEN + i] = (unsigned char)(len >> (8 * i));
}

static size_t area_len(const unsigned char *p)
{
    p += NAME_LEN;
    return (size_t)p[0] | (size_t)p[1] << 8 | (size_t)p[2] << 16 | (size_t)p[3] << 24;
}

void config_disk_make(struct buf *out, const char *config_json, size_t len)
{
    static const char zero[CONFIG_OFFSET];
    unsigned char header[AREA_HEADER];

    if (len > CONFIG_MAX) {
        out->failed = true;
        return;
    }
    area_header(header, config_name, len);
    buf_append(out, zero, sizeof(zero));
    buf_append(out, header, sizeof(header));
    buf_append(out, config_json, len);
    /* A block device ends with a whole sector. */
    buf_append(out, zero, (EXIT_SECTOR - (AREA_HEADER + len) % EXIT_SECTOR) % EXIT_SECTOR);
}

int config_disk_find(const unsigned char *at_offset, size_t len, const char **json_out,
                     size_t *len_out, struct err *e)
{
    if (len < AREA_HEADER || memcmp(at_offset, config_name, NAME_LEN) != 0)
        return err_set(e, ERR_INVALID, "this is not a config disk");
    if (area_len(at_offset) > CONFIG_MAX || area_len(at_offset) > len - AREA_HEADER)
        return err_set(e, ERR_INVALID, "the config disk is cut off");
    *json_out = (const char *)at_offset + AREA_HEADER;
    *len_out = area_len(at_offset);
    return 0;
}

static void put_record(struct buf *out, const struct exit_record *r, size_t message_len)
{
    struct jout j = JOUT(out);

    jout_open(&j, NULL, '{');
    jout_int(&j, "incarnation", (int64_t)r->incarnation);
    jout_int(&j, "code", r->code);
    jout_int(&j, "signal", r->signal);
    jout_bool(&j, "oom", r->oom);
    jout_bool(&j, "early", r->is_early);
    jout_strn(&j, "message", r->message, message_len);
    jout_int(&j, "at_us", r->at_us);
    jout_close(&j, '}');
}

void exit_record_json(struct buf *out, const struct exit_record *r)
{
    put_record(out, r, strnlen(r->message, EXIT_MESSAGE_MAX));
}

void exit_sector_make(unsigned char out[EXIT_SECTOR], const struct exit_record *r)
{
    size_t message_len = strnlen(r->message, EXIT_MESSAGE_MAX);
    auto_buf struct buf text = BUF(EXIT_SECTOR - AREA_HEADER);

    /* Escapes make a message up to six times as long. The rest of the record always fits. */
    put_record(&text, r, message_len);
    while (!buf_ok(&text)) {
        buf_reset(&text);
        put_record(&text, r, --message_len);
    }
    memset(out, 0, EXIT_SECTOR);
    area_header(out, exit_name, text.len);
    memcpy(out + AREA_HEADER, text.data, text.len);
}

int exit_sector_find(const unsigned char in[EXIT_SECTOR], const char **json_out, size_t *len_out,
                     struct err *e)
{
    static const unsigned char zero[EXIT_SECTOR];

    if (memcmp(in, zero, EXIT_SECTOR) == 0)
        return 0;
    if (memcmp(in, exit_name, NAME_LEN) != 0 || area_len(in) > EXIT_SECTOR - AREA_HEADER)
        return err_set(e, ERR_INVALID, "the exit sector holds something else");
    *json_out = (const char *)in + AREA_HEADER;
    *len_out = area_len(in);
    return 1;
}
