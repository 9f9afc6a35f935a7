/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/json.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"
#include "cli/text.h"
#include "cli/wsock.h"

/*
 * Without a terminal in the guest its two outputs come apart (a byte in front of
 * each message says which) and the end of our input is passed on.
 */
enum { CHANNEL_STDERR = 2, INPUT_BYTES = 32 << 10, WAITING_MAX = 256 << 10 };

struct exec {
    struct wsock socket;
    struct op op; /* Ctrl-C */
    bool is_terminal;
    bool has_input; /* until its end */
    int to_fd;      /* of the present message */
    int signal_fd;
    struct err err;
    bool has_ended;
    int exit_code;
};

/* --- what the guest sends --- */

static void on_binary(void *arg, const void *data, size_t len, bool is_first)
{
    struct exec *x = arg;
    const char *bytes = data;

    if (x->err.code != ERR_NONE || len == 0)
        return;
    if (is_first && !x->is_terminal) {
        x->to_fd = *bytes++ == CHANNEL_STDERR ? STDERR_FILENO : STDOUT_FILENO;
        len--;
    }
    (void)output_put(&x->op, x->to_fd, bytes, len, &x->err);
}

static void on_text(void *arg, const char *text, size_t len)
{
    struct exec *x = arg;
    struct err ignored = {0};
    json_auto_t *doc = parse_json(text, len, &ignored);
    const json_t *code = json_object_get(doc, "exitCode");
    const char *error = json_string_value(json_object_get(doc, "error"));

    if (json_is_integer(code)) {
        x->has_ended = true;
        x->exit_code = (int)json_integer_value(code) & 0xff;
    } else if (error && x->err.code == ERR_NONE) {
        err_set(&x->err, ERR_INVALID, "%s", error);
    }
}

static void on_closed(void *arg, unsigned code)
{
    (void)arg, (void)code;
}

static const struct ws_events events = {on_binary, on_text, on_closed};

/* --- what we send --- */

static void send_size(struct exec *x)
{
    struct winsize size;
    auto_buf struct buf json = BUF(128);

    if (!x->is_terminal || ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_row)
        return;
    buf_printf(&json, "{\"resize\":{\"rows\":%u,\"cols\":%u}}", size.ws_row, size.ws_col);
    ws_put(x->socket.ws, WS_TEXT, buf_str(&json), json.len);
}

static void end_input(struct exec *x)
{
    x->has_input = false;
    if (!x->is_terminal)
        ws_put(x->socket.ws, WS_BINARY, NULL, 0);
}

static int read_input(struct exec *x)
{
    char bytes[INPUT_BYTES];
    ssize_t n = read(STDIN_FILENO, bytes, sizeof(bytes));

    if (n > 0)
        ws_put(x->socket.ws, WS_BINARY, bytes, (size_t)n);
    else if (n == 0 || errno == EIO) /* EIO: the terminal is gone */
        end_input(x);
    else if (errno != EINTR && errno != EAGAIN)
        return err_errno(&x->err, "read standard input");
    return 0;
}

/* --- the session --- */

static void take_signal(struct exec *x)
{
    struct signalfd_siginfo info;

    if (read(x->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        send_size(x);
}

static int turn(struct exec *x)
{
    bool wants_input = x->has_input && ws_out(x->socket.ws)->len < WAITING_MAX;
    struct pollfd fds[] = {
        {x->socket.x.fd, wsock_wants(&x->socket), 0},
        {wants_input ? STDIN_FILENO : -1, POLLIN, 0},
        {x->signal_fd, POLLIN, 0},
        {x->op.cancel_fd, POLLIN, 0},
    };

    if (poll(fds, sizeof(fds) / sizeof(fds[0]), -1) < 0 && errno != EINTR)
        return err_errno(&x->err, "poll");
    if (fds[3].revents)
        return err_set(&x->err, ERR_CANCELLED, "interrupted");
    if (fds[2].revents)
        take_signal(x);
    if (fds[1].revents && read_input(x) < 0)
        return -1;
    return wsock_io(&x->socket, &x->err);
}

static int converse(struct exec *x, const char *first)
{
    ws_put(x->socket.ws, WS_TEXT, first, strlen(first));
    if (!x->has_input)
        end_input(x);
    if (wsock_io(&x->socket, &x->err) < 0)
        return -1;
    while (!x->socket.is_over && !x->has_ended && x->err.code == ERR_NONE) {
        if (turn(x) < 0)
            return -1;
    }
    if (x->err.code == ERR_NONE && !x->has_ended)
        err_set(&x->err, ERR_INTERNAL, "the connection ended before the command did");
    return x->err.code == ERR_NONE ? 0 : -1;
}

/* Key presses go to the guest as they are, Ctrl-C too. */
static bool make_raw(struct termios *before)
{
    struct termios raw;

    if (tcgetattr(STDIN_FILENO, before) < 0)
        return false;
    raw = *before;
    cfmakeraw(&raw);
    return tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

static int watch_signals(struct exec *x)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGWINCH);
    sigprocmask(SIG_BLOCK, &set, NULL);
    x->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return x->signal_fd < 0 ? err_errno(&x->err, "signalfd") : 0;
}

static int run_in(const char *name, struct exec *x, const char *first)
{
    auto_free char *path = instance_path(name, "/exec");
    struct termios before;
    struct op opening;
    bool is_raw;
    int rc;

    session_catch_all();
    opening = session_op(SESSION_CALL_MS);
    if (watch_signals(x) < 0 || wsock_open(&opening, &x->socket, path, &events, x, &x->err) < 0)
        return report_instance(name, &x->err);
    is_raw = x->is_terminal && x->has_input && make_raw(&before);
    x->op = session_op(INT64_MAX);
    rc = converse(x, first);
    if (is_raw)
        (void)tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
    return rc < 0 ? report(&x->err) : x->exit_code;
}

/* --- the command line --- */

struct exec_flags {
    bool interactive;
    bool tty;
    bool no_tty;
    const char *cwd;
    const char *user;
    const char *timeout;
    struct argv env;
};

/* Seconds, or a duration in whole ones. -1 for what is neither. */
static int64_t seconds_of(const char *text)
{
    uint64_t seconds;
    int64_t ms;

    if (parse_u64(text, 0, INT32_MAX, &seconds))
        return (int64_t)seconds;
    return parse_duration_ms(text, &ms) && ms % 1000 == 0 && ms >= 0 ? ms / 1000 : -1;
}

static int add_env(const struct exec_flags *f, json_t *body)
{
    json_t *env = json_object();

    json_object_set_new(body, "env", env);
    if (f->tty)
        (void)env_add(env, "TERM");
    for (size_t i = 0; i < f->env.n; i++) {
        if (!env_add(env, f->env.v[i]))
            return cli_misuse(&cli_exec, "--env takes KEY=VALUE or KEY, not %s", f->env.v[i]);
    }
    return CLI_OK;
}

static int add_rest(const struct exec_flags *f, json_t *body)
{
    int64_t seconds = f->timeout ? seconds_of(f->timeout) : 0;
    struct winsize size = {0};

    if (seconds < 0)
        return cli_misuse(&cli_exec, "--timeout takes seconds or 30s, 5m, not %s", f->timeout);
    json_object_set_new(body, "timeout", json_integer(seconds));
    if ((f->cwd && json_object_set_new(body, "cwd", json_string(f->cwd)) < 0) ||
        (f->user && json_object_set_new(body, "user", json_string(f->user)) < 0))
        return cli_misuse(&cli_exec, "a value is not UTF-8");
    json_object_set_new(body, "tty", json_boolean(f->tty));
    if (f->tty && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) {
        json_object_set_new(body, "rows", json_integer(size.ws_row));
        json_object_set_new(body, "cols", json_integer(size.ws_col));
    }
    if (!f->tty) {
        json_object_set_new(body, "separate_stderr", json_true());
        json_object_set_new(body, "stdin_eof", json_true());
    }
    return CLI_OK;
}

static int exec_with(struct exec_flags *f, const char *name, int argc, char **argv)
{
    json_auto_t *body = json_object();
    auto_free char *first = NULL;
    struct exec x = {.socket = WSOCK, .signal_fd = -1, .to_fd = STDOUT_FILENO};
    int rc;

    if (f->tty && f->no_tty)
        return cli_misuse(&cli_exec, "-t and -T exclude each other");
    if (!f->no_tty && f->interactive && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
        f->tty = true;
    if (argc > 0 && json_object_set_new(body, "command", words_from(argc, argv)) < 0)
        return cli_misuse(&cli_exec, "the command is not UTF-8");
    rc = add_env(f, body);
    if (rc == CLI_OK)
        rc = add_rest(f, body);
    if (rc != CLI_OK)
        return rc;
    first = json_dumps(body, JSON_COMPACT);
    x.is_terminal = f->tty;
    x.has_input = f->interactive;
    rc = run_in(name, &x, first);
    wsock_fini(&x.socket);
    cleanup_close(&x.signal_fd);
    return rc;
}

static int exec_verb(int argc, char **argv)
{
    struct exec_flags f = {.interactive = true};
    const struct opt opts[] = {
        {'i', "interactive", OPT_FLAG, &f.interactive, NULL, "pass standard input on (true)"},
        {'t', "tty", OPT_FLAG, &f.tty, NULL, "a terminal in the guest (if we have one)"},
        {0, "it", OPT_FLAG, &f.tty, NULL, "the same"},
        {'T', "no-tty", OPT_FLAG, &f.no_tty, NULL, "none, whatever we have"},
        {'e', "env", OPT_LIST, &f.env, "KEY=VALUE", "set a variable; KEY alone passes ours on"},
        {'w', "cwd", OPT_TEXT, &f.cwd, "DIRECTORY", "where it runs (the image's)"},
        {'u', "user", OPT_TEXT, &f.user, "USER[:GROUP]", "who runs it (root)"},
        {0, "timeout", OPT_TEXT, &f.timeout, "DURATION", "end it after this long, with code 124"},
        {0},
    };
    int rc = opt_parse(&cli_exec, opts, &argc, &argv);
    const char *name = argv[0];

    if (rc == OPT_GO && argc == 0)
        rc = cli_misuse(&cli_exec, "name an instance");
    /* Flags may stand behind the name too, up to the command or a "--", which is not its first
     * word: so the other client of this API has it. */
    if (rc == OPT_GO)
        rc = opt_parse(&cli_exec, opts, &argc, &argv);
    if (rc == OPT_GO)
        rc = exec_with(&f, name, argc, argv);
    argv_free(&f.env);
    return rc;
}

const struct cli_verb cli_exec = {
    .name = "exec",
    .help = "Run a command in an instance; its exit code is ours",
    .usage = "[flags] NAME [flags] [--] [COMMAND...]",
    .run = exec_verb,
    .is_prefix = true,
};
