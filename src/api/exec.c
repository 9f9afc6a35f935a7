/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/guest_socket.h"
#include "api/handlers.h"
#include "api/member.h"
#include "base/argv.h"
#include "base/json.h"
#include "base/mem.h"

/*
 * GET /instances/{id}/exec: a command inside a guest, as the contract's clients
 * know it. Three things are ours, and off unless the first message asks for them:
 * "separate_stderr" (a byte in front of each output message says which of the two
 * it is), "stdin_eof" (an empty binary message ends standard input) and "user".
 */

enum {
    SECONDS_MAX = 10 * 365 * 24 * 3600,
    WAIT_SECONDS_MAX = 600,
    SIZE_MAX_CELLS = 65535,
    CHANNEL_STDOUT = 1,
    CHANNEL_STDERR = 2,
};

struct exec {
    struct guest_socket s;
    bool is_terminal;
    bool separate_stderr;
    bool stdin_eof;
    int64_t grace_ms;
};

static struct exec *of(void *owner)
{
    return container_of((struct guest_socket *)owner, struct exec, s);
}

/* --- output --- */

static void send_output(struct exec *x, enum guest_channel from, const void *data, size_t len)
{
    struct buf b = BUF(1 + GUEST_WINDOW);
    char channel = from == GUEST_STDERR ? CHANNEL_STDERR : CHANNEL_STDOUT;

    if (!x->separate_stderr) {
        guest_socket_send(&x->s, WS_BINARY, data, len, len);
        return;
    }
    buf_append(&b, &channel, 1);
    buf_append(&b, data, len);
    guest_socket_send(&x->s, WS_BINARY, buf_str(&b), b.len, len);
    buf_free(&b);
}

static void on_data(void *owner, enum guest_channel from, const void *data, size_t len)
{
    of(owner)->s.bytes += len;
    send_output(of(owner), from, data, len);
}

static void send_exit(struct exec *x, int code)
{
    struct buf json = BUF(64);

    buf_printf(&json, "{\"exitCode\":%d}", code);
    guest_socket_send_json(&x->s, &json);
}

/* Output, because clients show nothing else; and with a return, because terminals are raw. */
static void send_failure(struct exec *x, const struct err *e)
{
    struct buf b = BUF(1024);
    char channel = CHANNEL_STDERR;

    if (x->separate_stderr)
        buf_append(&b, &channel, 1);
    buf_printf(&b, "Error: %s\r\n", e->msg);
    guest_socket_send(&x->s, WS_BINARY, buf_str(&b), b.len, 0);
    buf_free(&b);
    send_exit(x, GUEST_EXIT_NOT_STARTED);
}

static void on_ended(void *owner, const struct guest_end *end)
{
    struct exec *x = of(owner);
    char how[64];

    if (end->ok) {
        x->s.succeeded = true;
        trace_count(&x->s.trace, "exit_code", end->code);
        send_exit(x, end->code);
        (void)snprintf(how, sizeof(how), "exit code %d", end->code);
    } else {
        send_failure(x, &end->err);
    }
    guest_socket_finish(&x->s, WS_NORMAL, end->ok ? how : end->err.msg);
}

static void refuse(struct guest_socket *s, const struct err *e)
{
    struct buf json = BUF(8192);
    struct jout j = JOUT(&json);

    if (e->code != ERR_INVALID) {
        send_failure(of(s), e);
        return;
    }
    jout_open(&j, NULL, '{');
    jout_str(&j, "error", e->msg);
    jout_close(&j, '}');
    guest_socket_send_json(s, &json);
}

/* --- input --- */

static size_t input(struct guest_socket *s, const char *data, size_t len)
{
    return guest_write(s->guest, data, len);
}

static void empty(struct guest_socket *s)
{
    if (of(s)->stdin_eof)
        guest_socket_end_input(s);
}

static bool take_resize(struct exec *x, const char *text, size_t len)
{
    struct err ignored = {0};
    json_auto_t *doc = x->is_terminal ? parse_json(text, len, &ignored) : NULL;
    const json_t *size = json_object_get(doc, "resize");
    json_int_t rows = json_integer_value(json_object_get(size, "rows"));
    json_int_t cols = json_integer_value(json_object_get(size, "cols"));

    if (!json_is_object(size))
        return false;
    if (rows > 0 && rows <= SIZE_MAX_CELLS && cols > 0 && cols <= SIZE_MAX_CELLS)
        guest_resize(x->s.guest, (uint16_t)rows, (uint16_t)cols);
    return true;
}

/* With a terminal it may be its new size; anything else is input, as it always was. */
static void text(struct guest_socket *s, const char *data, size_t len)
{
    if (!take_resize(of(s), data, len))
        guest_socket_input(s, data, len);
}

static void on_writable(void *owner)
{
    guest_socket_push(owner);
}

/* --- the beginning --- */

static int take_words(const json_t *doc, struct argv *out, struct err *e)
{
    const json_t *words;
    const json_t *word;
    size_t i;

    if (json_member(doc, "command", JSON_ARRAY, &words, e) < 0)
        return -1;
    json_array_foreach(words, i, word)
    {
        const char *s = json_string_value(word);

        if (!s || strlen(s) != json_string_length(word))
            return err_set(e, ERR_INVALID, "command must be an array of strings without NULs");
        argv_push(out, s);
    }
    if (json_array_size(words) == 0)
        argv_push(out, "/bin/sh");
    return 0;
}

static int take_env(const json_t *doc, struct argv *out, struct err *e)
{
    const json_t *env;
    const char *key;
    json_t *value;

    if (json_member(doc, "env", JSON_OBJECT, &env, e) < 0)
        return -1;
    json_object_foreach((json_t *)(uintptr_t)env, key, value)
    {
        const char *s = json_string_value(value);

        if (!s || strlen(s) != json_string_length(value) || !*key || strchr(key, '='))
            return err_set(e, ERR_INVALID, "env must be an object of strings without NULs");
        argv_pushf(out, "%s=%s", key, s);
    }
    return 0;
}

static int decode(struct exec *x, const json_t *doc, struct guest_command *command, struct err *e)
{
    json_int_t timeout;
    json_int_t wait;
    json_int_t rows;
    json_int_t cols;

    if (json_bool_member(doc, "tty", false, &x->is_terminal, e) < 0 ||
        json_bool_member(doc, "separate_stderr", false, &x->separate_stderr, e) < 0 ||
        json_bool_member(doc, "stdin_eof", false, &x->stdin_eof, e) < 0 ||
        json_text_member(doc, "cwd", &command->cwd, e) < 0 ||
        json_text_member(doc, "user", &command->user, e) < 0 ||
        json_int_member(doc, "timeout", SECONDS_MAX, &timeout, e) < 0 ||
        json_int_member(doc, "wait_for_agent", WAIT_SECONDS_MAX, &wait, e) < 0 ||
        json_int_member(doc, "rows", SIZE_MAX_CELLS, &rows, e) < 0 ||
        json_int_member(doc, "cols", SIZE_MAX_CELLS, &cols, e) < 0)
        return -1;
    command->is_terminal = x->is_terminal;
    command->merge_stderr = !x->separate_stderr;
    command->rows = (uint16_t)rows;
    command->cols = (uint16_t)cols;
    command->timeout_ms = timeout * 1000;
    command->wait_ms = wait * 1000;
    command->grace_ms = x->grace_ms;
    return 0;
}

static int begin(struct guest_socket *s, struct instance *row, const json_t *doc, struct err *e)
{
    struct exec *x = of(s);
    auto_argv struct argv words = {0};
    auto_argv struct argv env = {0};
    struct guest_command command = {0};

    if (decode(x, doc, &command, e) < 0 || take_words(doc, &words, e) < 0 ||
        take_env(doc, &env, e) < 0)
        return -1;
    trace_text(
        &s->trace, "command", words.v[0]); /* without its arguments: there are secrets in these */
    command.argv = (const char *const *)words.v;
    command.env = (const char *const *)env.v;
    s->guest = guest_exec(row, &command, &s->kind->events, s, e);
    return s->guest ? 0 : -1;
}

static void exec_free(struct guest_socket *s)
{
    free(of(s));
}

static const struct guest_socket_kind kind = {
    .name = "exec",
    .span = "exec.session",
    .events = {.data = on_data, .writable = on_writable, .ended = on_ended},
    .begin = begin,
    .input = input,
    .empty = empty,
    .text = text,
    .refuse = refuse,
    .free = exec_free,
};

void api_instances_exec(struct call *c)
{
    struct exec *x = mem_new(struct exec);

    x->grace_ms = c->api->limits.exec_grace_ms;
    guest_socket_open(c, &x->s, &kind);
}
