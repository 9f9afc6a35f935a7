/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/token.h"
#include "base/argv.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/parse.h"
#include "cli/cli.h"
#include "cli/opt.h"
#include "cli/session.h"

static const char default_dir[] = "/var/lib/hypeman";
enum { SECRET_MAX = 4096, DAY_MS = 24 * 60 * 60 * 1000 };

/* Flags, then the environment, then where the daemon keeps the one it made itself. */
static int find_secret(const char *file, const char *dir, struct buf *out, struct err *e)
{
    const char *given = getenv("JWT_SECRET");
    auto_free char *path = NULL;

    if (!file && !dir && given && *given) {
        buf_puts(out, given);
        return buf_ok(out) ? 0 : err_set(e, ERR_TOO_LARGE, "JWT_SECRET is too long");
    }
    path = file ? mem_strdup(file) : mem_printf("%s/secret", dir ? dir : default_dir);
    if (token_secret_read(path, out, e) == 0)
        return 0;
    err_wrap(e, "cannot read the daemon's secret");
    if (!file && !dir)
        err_wrap(e, "JWT_SECRET is not set, --secret-file and --data-dir are not given");
    return -1;
}

static int list_scopes(const char *wrong)
{
    fprintf(stderr, "hypeman token: there is no permission %s; the permissions are *", wrong);
    for (uint32_t scope = 1; scope < SCOPE_UNLIMITED; scope <<= 1)
        fprintf(stderr, " %s", token_scope_name(scope));
    fputc('\n', stderr);
    return CLI_MISUSE;
}

static int print_token(const struct token_claims *claims, const char *secret)
{
    auto_buf struct buf token = BUF(TOKEN_MAX);
    struct err e = {0};

    if (token_sign(claims, secret, &token, &e) < 0)
        return report(&e);
    puts(buf_str(&token));
    return CLI_OK;
}

static int make_token(const struct argv *permissions, int64_t ttl_ms, const char *subject,
                      const char *secret)
{
    struct token_claims claims = {
        .issued_at = wall_us() / 1000000,
        .scopes = permissions->n ? 0 : SCOPE_ALL,
    };

    claims.expires_at = claims.issued_at + ttl_ms / 1000;
    (void)snprintf(claims.subject, sizeof(claims.subject), "%s", subject);
    for (size_t i = 0; i < permissions->n; i++) {
        uint32_t scope;

        if (!token_scope_parse(permissions->v[i], &scope))
            return list_scopes(permissions->v[i]);
        claims.scopes |= scope;
    }
    return print_token(&claims, secret);
}

static int token(int argc, char **argv)
{
    auto_argv struct argv permissions = {0};
    auto_buf struct buf secret = BUF(SECRET_MAX);
    const char *ttl = NULL;
    const char *file = NULL;
    const char *dir = NULL;
    const char *subject = "hypeman-cli";
    const struct opt opts[] = {
        {0,
         "permission",
         OPT_LIST,
         &permissions,
         "SCOPE",
         "such as instance:read; all without one"},
        {0, "ttl", OPT_TEXT, &ttl, "DURATION", "how long it is good for (24h)"},
        {0, "subject", OPT_TEXT, &subject, "NAME", "whose it is, for the daemon's log"},
        {0, "secret-file", OPT_TEXT, &file, "FILE", "where the secret is"},
        {0, "data-dir", OPT_TEXT, &dir, "DIR", "the daemon's, with its secret in it"},
        {0},
    };
    int rc = opt_parse(&cli_token, opts, &argc, &argv);
    int64_t ttl_ms = DAY_MS;
    struct err e = {0};

    if (rc != OPT_GO)
        return rc;
    if (argc > 0)
        return cli_misuse(&cli_token, "it takes no names");
    if (file && dir)
        return cli_misuse(&cli_token, "--secret-file and --data-dir exclude each other");
    if (ttl && (!parse_duration_ms(ttl, &ttl_ms) || ttl_ms < 1000))
        return cli_misuse(&cli_token, "--ttl takes a duration like 24h, at least 1s, not %s", ttl);
    if (strlen(subject) >= TOKEN_SUBJECT_SIZE || strncmp(subject, "builder-", 8) == 0)
        return cli_misuse(&cli_token, "no token may be made out to %s", subject);
    if (find_secret(file, dir, &secret, &e) < 0)
        return report(&e);
    return make_token(&permissions, ttl_ms, subject, buf_str(&secret));
}

const struct cli_verb cli_token = {
    .name = "token",
    .help = "Make a token for the API, signed with the daemon's secret",
    .usage = "[flags]",
    .run = token,
};
