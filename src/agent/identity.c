/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/identity.h"

#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "agent/jread.h"
#include "agent/net.h"
#include "agent/sys.h"
#include "base/cleanup.h"

enum { SEED_MAX = 512 };

/* <linux/random.h>, which musl's headers do not have. */
struct rand_pool_info {
    int entropy_count; /* bits */
    int buf_size;      /* bytes */
    unsigned char bytes[SEED_MAX];
};
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)

struct identity {
    int64_t time_us;
    char *seed;
    char *hostname;
    char *machine_id;
    char *outer_address;
};

#define auto_identity __attribute__((cleanup(identity_free)))

static void identity_free(struct identity *i)
{
    free(i->seed);
    free(i->hostname);
    free(i->machine_id);
    free(i->outer_address);
}

static void reseed(const char *hex)
{
    auto_close int fd = open("/dev/random", O_RDWR | O_CLOEXEC);
    struct rand_pool_info info = {0};

    for (; hex[0] && hex[1] && info.buf_size < SEED_MAX; hex += 2)
        info.bytes[info.buf_size++] = (unsigned char)(hex_digit(hex[0]) << 4 | hex_digit(hex[1]));
    info.entropy_count = info.buf_size * 8;
    if (fd < 0 || ioctl(fd, RNDADDENTROPY, &info) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        say("the random pool was not reseeded: %m");
    explicit_bzero(&info, sizeof(info));
}

static void set_clock(int64_t time_us)
{
    struct timespec ts = {.tv_sec = time_us / 1000000, .tv_nsec = time_us % 1000000 * 1000};

    if (clock_settime(CLOCK_REALTIME, &ts) < 0)
        say("the clock was not set: %m");
}

static void set_machine_id(const char *id)
{
    auto_buf struct buf text = BUF(128);

    buf_printf(&text, "%s\n", id);
    if (buf_ok(&text))
        (void)replace_text("/etc/machine-id", buf_str(&text));
}

int identity_apply(const char *json, size_t len, const char *inner_address, struct err *e)
{
    auto_identity struct identity i = {0};
    struct jread j = JREAD(json, len);

    jread_object(&j);
    for (char *key; (key = jread_key(&j)); free(key)) {
        if (strcmp(key, "time_us") == 0)
            i.time_us = jread_int(&j);
        else if (strcmp(key, "seed") == 0)
            jread_text(&j, &i.seed);
        else if (strcmp(key, "hostname") == 0)
            jread_text(&j, &i.hostname);
        else if (strcmp(key, "machine_id") == 0)
            jread_text(&j, &i.machine_id);
        else if (strcmp(key, "outer_address") == 0)
            jread_text(&j, &i.outer_address);
        else
            jread_skip(&j);
    }
    if (!jread_done(&j) || (i.seed && i.seed[strspn(i.seed, "0123456789abcdefABCDEF")]))
        return err_set(e, ERR_INVALID, "the identity frame is not what was agreed");
    if (i.seed)
        reseed(i.seed);
    if (i.time_us > 0)
        set_clock(i.time_us);
    set_hostname(i.hostname, inner_address);
    if (i.machine_id)
        set_machine_id(i.machine_id);
    set_outer_address(i.outer_address);
    return 0;
}
