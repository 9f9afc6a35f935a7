/* SPDX-License-Identifier: Apache-2.0 */
#include "net/rules.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <libnftnl/expr.h>
#include <libnftnl/rule.h>
#include <libnftnl/set.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <nftables/libnftables.h>

#include "base/json.h"
#include "base/mem.h"
#include "net/publish.h"

enum { TEXT_MAX = 8 << 20, WORDS_MAX = 300 };

static rules_part *const parts[] = {rules_mapping, rules_ports};

/* Naming it makes it, if it is not there: then there is always one to delete. */
void rules_clear_table(struct buf *out, const char *family, const char *name)
{
    buf_printf(out, "table %s %s\ndelete table %s %s\n", family, name, family, name);
}

static void one_line(char *text)
{
    for (char *p = text; (p = strchr(p, '\n')) != NULL;)
        *p = ' ';
}

static int run_nft(const char *text, struct buf *json, struct err *e)
{
    struct nft_ctx *ctx = nft_ctx_new(NFT_CTX_DEFAULT);
    char words[WORDS_MAX] = "";
    int rc;

    if (!ctx)
        return err_set(e, ERR_INTERNAL, "libnftables does not start");
    nft_ctx_buffer_error(ctx);
    nft_ctx_buffer_output(ctx);
    if (json)
        nft_ctx_output_set_flags(ctx, NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_HANDLE);
    rc = nft_run_cmd_from_buffer(ctx, text);
    if (rc != 0) {
        (void)snprintf(words, sizeof(words), "%s", nft_ctx_get_error_buffer(ctx));
        one_line(words);
        err_set(e, ERR_INTERNAL, "nftables: %s", words);
    } else if (json) {
        buf_puts(json, nft_ctx_get_output_buffer(ctx));
    }
    nft_ctx_free(ctx);
    return rc == 0 ? 0 : -1;
}

int rules_run(const char *text, struct err *e)
{
    return run_nft(text, NULL, e);
}

int rules_ask(const char *text, struct buf *out, struct err *e)
{
    return run_nft(text, out, e);
}

void rules_read_opened(char out[IFNAMSIZ])
{
    auto_buf struct buf text = BUF(TEXT_MAX);
    struct err none = {0};
    json_auto_t *doc = NULL;
    const json_t *set;
    const char *name;

    out[0] = '\0';
    if (rules_ask("list set ip " RULES_TABLE " " RULES_OPENED, &text, &none) < 0)
        return;
    doc = parse_json(buf_str(&text), text.len, &none);
    set = json_object_get(json_array_get(json_object_get(doc, "nftables"), 1), "set");
    name = json_string_value(json_array_get(json_object_get(set, "elem"), 0));
    if (name)
        (void)snprintf(out, IFNAMSIZ, "%s", name);
}

/* --- what nft's syntax cannot say --- */

/* In an ICMP error: after its own header of 8 bytes the header of the packet it speaks of. */
enum {
    ICMP_HEADER = 8,
    EMBEDDED_CHECKSUM = ICMP_HEADER + 10,
    EMBEDDED_SOURCE = ICMP_HEADER + 12,
    EMBEDDED_DESTINATION = ICMP_HEADER + 16,
};

static struct nftnl_expr *add_expr(struct nftnl_rule *r, const char *kind)
{
    struct nftnl_expr *x = nftnl_expr_alloc(kind);

    if (!x)
        abort();
    nftnl_rule_add_expr(r, x);
    return x;
}

static void load_embedded(struct nftnl_rule *r, uint32_t offset)
{
    struct nftnl_expr *x = add_expr(r, "payload");

    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_LEN, 4);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_DREG, NFT_REG_1);
}

static void expect(struct nftnl_rule *r, struct subnet s)
{
    struct nftnl_expr *x = add_expr(r, "bitwise");
    uint32_t mask = htonl(subnet_mask(s));
    uint32_t none = 0;
    uint32_t base = htonl(s.base);

    nftnl_expr_set_u32(x, NFTNL_EXPR_BITWISE_SREG, NFT_REG_1);
    nftnl_expr_set_u32(x, NFTNL_EXPR_BITWISE_DREG, NFT_REG_1);
    nftnl_expr_set_u32(x, NFTNL_EXPR_BITWISE_LEN, 4);
    nftnl_expr_set(x, NFTNL_EXPR_BITWISE_MASK, &mask, sizeof(mask));
    nftnl_expr_set(x, NFTNL_EXPR_BITWISE_XOR, &none, sizeof(none));
    x = add_expr(r, "cmp");
    nftnl_expr_set_u32(x, NFTNL_EXPR_CMP_SREG, NFT_REG_1);
    nftnl_expr_set_u32(x, NFTNL_EXPR_CMP_OP, NFT_CMP_EQ);
    nftnl_expr_set(x, NFTNL_EXPR_CMP_DATA, &base, sizeof(base));
}

static void take_outer(struct nftnl_rule *r)
{
    struct nftnl_expr *x = add_expr(r, "meta");

    nftnl_expr_set_u32(x, NFTNL_EXPR_META_KEY, NFT_META_IIFNAME);
    nftnl_expr_set_u32(x, NFTNL_EXPR_META_DREG, NFT_REG_1);
    x = add_expr(r, "lookup");
    nftnl_expr_set_u32(x, NFTNL_EXPR_LOOKUP_SREG, NFT_REG_1);
    nftnl_expr_set_u32(x, NFTNL_EXPR_LOOKUP_DREG, NFT_REG_1);
    nftnl_expr_set_str(x, NFTNL_EXPR_LOOKUP_SET, "outer");
}

static void take_constant(struct nftnl_rule *r, uint32_t address)
{
    struct nftnl_expr *x = add_expr(r, "immediate");
    uint32_t data = htonl(address);

    nftnl_expr_set_u32(x, NFTNL_EXPR_IMM_DREG, NFT_REG_1);
    nftnl_expr_set(x, NFTNL_EXPR_IMM_DATA, &data, sizeof(data));
}

/*
 * With the embedded header's own checksum adjusted, the sum over both stays, and so does the ICMP
 * checksum, which covers them.
 */
static void write_embedded(struct nftnl_rule *r, uint32_t offset)
{
    struct nftnl_expr *x = add_expr(r, "payload");

    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_OFFSET, offset);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_LEN, 4);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_SREG, NFT_REG_1);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_CSUM_TYPE, NFT_PAYLOAD_CSUM_INET);
    nftnl_expr_set_u32(x, NFTNL_EXPR_PAYLOAD_CSUM_OFFSET, EMBEDDED_CHECKSUM);
}

static void add_rule(struct nl *n, struct nftnl_rule *r, const char *chain)
{
    struct nlmsghdr *h =
        nl_begin(n, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND);
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));

    g->nfgen_family = NFPROTO_IPV4;
    g->version = NFNETLINK_V0;
    nftnl_rule_set_str(r, NFTNL_RULE_TABLE, RULES_TABLE);
    nftnl_rule_set_str(r, NFTNL_RULE_CHAIN, chain);
    nftnl_rule_set_u32(r, NFTNL_RULE_FAMILY, NFPROTO_IPV4);
    nftnl_rule_nlmsg_build_payload(h, r);
    nftnl_rule_free(r);
    nl_end(n, h, "add the rule for ICMP errors", 0);
}

static struct nftnl_rule *new_rule(void)
{
    struct nftnl_rule *r = nftnl_rule_alloc();

    if (!r)
        abort();
    return r;
}

/* A guest that refuses a packet speaks of the inner address, others know the outer; and back. */
static int add_icmp_rules(const struct net_plan *plan, struct err *e)
{
    auto_nl struct nl n = NL_CLOSED;
    struct nftnl_rule *from = new_rule();
    struct nftnl_rule *to = new_rule();

    load_embedded(from, EMBEDDED_DESTINATION);
    expect(from, (struct subnet){plan->inner, 32});
    take_outer(from);
    write_embedded(from, EMBEDDED_DESTINATION);
    load_embedded(to, EMBEDDED_SOURCE);
    expect(to, plan->outer);
    take_constant(to, plan->inner);
    write_embedded(to, EMBEDDED_SOURCE);
    if (nl_open(&n, NETLINK_NETFILTER, e) < 0) {
        nftnl_rule_free(from);
        nftnl_rule_free(to);
        return -1;
    }
    nl_batch_begin(&n);
    add_rule(&n, from, "icmp_from");
    add_rule(&n, to, "icmp_to");
    nl_batch_end(&n);
    return nl_send(&n, e);
}

int rules_apply(const struct rules_input *in, struct err *e)
{
    auto_buf struct buf text = BUF(TEXT_MAX);

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        parts[i](&text, in);
    if (!buf_ok(&text))
        return err_set(e, ERR_INTERNAL, "the firewall's rules are too long");
    return rules_run(buf_str(&text), e) < 0 ? -1 : add_icmp_rules(in->plan, e);
}

int rules_remove(struct err *e)
{
    auto_buf struct buf text = BUF(4096);

    rules_clear_table(&text, "ip", RULES_TABLE);
    rules_clear_table(&text, "ip", RULES_PORTS_TABLE);
    rules_clear_table(&text, "arp", RULES_TABLE);
    rules_clear_table(&text, "ip6", RULES_TABLE);
    return rules_run(buf_str(&text), e);
}

/* --- elements of the map --- */

void rules_put_element(struct nl *n, uint16_t type, const struct rules_element *x)
{
    struct nlmsghdr *h = nl_begin(n,
                                  (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | type),
                                  type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0);
    struct nfgenmsg *g = mnl_nlmsg_put_extra_header(h, sizeof(*g));
    struct nlattr *list;
    struct nlattr *element;
    struct nlattr *part;

    g->nfgen_family = NFPROTO_IPV4;
    g->version = NFNETLINK_V0;
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_TABLE, x->table);
    mnl_attr_put_strz(h, NFTA_SET_ELEM_LIST_SET, x->set);
    list = mnl_attr_nest_start(h, NFTA_SET_ELEM_LIST_ELEMENTS);
    element = mnl_attr_nest_start(h, NFTA_LIST_ELEM);
    part = mnl_attr_nest_start(h, NFTA_SET_ELEM_KEY);
    mnl_attr_put(h, NFTA_DATA_VALUE, x->key_len, x->key);
    mnl_attr_nest_end(h, part);
    if (type == NFT_MSG_NEWSETELEM) {
        part = mnl_attr_nest_start(h, NFTA_SET_ELEM_DATA);
        mnl_attr_put(h, NFTA_DATA_VALUE, x->data_len, x->data);
        mnl_attr_nest_end(h, part);
    }
    mnl_attr_nest_end(h, element);
    mnl_attr_nest_end(h, list);
    nl_end(n, h, "change an element of a map", 0);
}

static void put_element(struct nl *n, uint16_t type, const char *tap, uint32_t address)
{
    char key[IFNAMSIZ] = {0};
    uint32_t data = htonl(address);

    (void)snprintf(key, sizeof(key), "%s", tap);
    rules_put_element(n,
                      type,
                      &(struct rules_element){
                          .table = RULES_TABLE,
                          .set = "outer",
                          .key = key,
                          .key_len = sizeof(key),
                          .data = &data,
                          .data_len = sizeof(data),
                      });
}

/* Made first, so that there is one to delete, whatever became of it meanwhile. */
void rules_unbind(struct nl *n, const char *tap, uint32_t before)
{
    put_element(n, NFT_MSG_NEWSETELEM, tap, before);
    put_element(n, NFT_MSG_DELSETELEM, tap, 0);
}

void rules_bind(struct nl *n, const char *tap, uint32_t before, uint32_t address)
{
    if (before)
        rules_unbind(n, tap, before);
    put_element(n, NFT_MSG_NEWSETELEM, tap, address);
}
