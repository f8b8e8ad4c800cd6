"""Asks a server for names by dnspython, a resolver library of its own.

    resolve.py check SERVER PORT   every kind of question about `web` and `db` on
                                   the network `ctr0`; fails at the first surprise
    resolve.py watch SERVER PORT FILE NAME…
                                   asks for the names in turn until FILE is gone,
                                   and prints a line for each answer: when it was
                                   asked and answered, in nanoseconds of the
                                   monotonic clock, the name, and the addresses
"""

import sys
import time
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.reversename

PATIENCE = 10


def equal(found, wanted, what):
    if found != wanted:
        raise AssertionError(f"{what}: wanted {wanted!r}, found {found!r}")


def check(server, port):
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = [server], port
    resolver.lifetime = PATIENCE

    def ask(name, kind="A", **how):
        answer = resolver.resolve(name, kind, raise_on_no_answer=False, **how)
        return sorted(str(record) for record in answer.rrset or [])

    web, db = ask("web.ctr0."), ask("db.ctr0.circuit.internal.")
    equal((len(web), len(db)), (1, 1), "addresses")
    equal(ask("web.circuit.internal.", tcp=True), web, "by tcp")
    equal(ask("WEB.Ctr0."), web, "in another case")
    equal(ask("web.ctr0.", "AAAA"), [], "no address of that kind")
    equal(ask(dns.reversename.from_address(web[0]), "PTR"), ["web.ctr0.circuit.internal."], "name")
    equal(ask("_80._tcp.db.ctr0.", "SRV"), ["0 0 80 db.ctr0.circuit.internal."], "port")
    equal(ask("circuit.internal.", "NS"), ["ns.circuit.internal."], "server of the zone")
    equal(len(ask("circuit.internal.", "SOA")), 1, "start of authority")
    try:
        ask("gone.ctr0.")
    except dns.resolver.NXDOMAIN as missing:
        response = missing.response(dns.name.from_text("gone.ctr0."))
        equal([rrset.rdtype for rrset in response.authority], [dns.rdatatype.SOA], "authority")
    else:
        raise AssertionError("gone.ctr0 was found")
    # Each with and without EDNS, and with a buffer of every size.
    for size in [None, 512, 1232, 4096, 65535]:
        asked = dns.message.make_query("web.ctr0.", "A", use_edns=size is not None, payload=size)
        answer = dns.query.udp(asked, server, timeout=PATIENCE, port=port)
        equal(answer.rcode(), dns.rcode.NOERROR, f"result with {size}")
        equal(answer.edns, -1 if size is None else 0, f"edns with {size}")
        equal(bool(answer.flags & dns.flags.AA), True, "authoritative")
        equal([rrset.ttl for rrset in answer.answer], [0], "time to live")
    newer = dns.message.make_query("web.ctr0.", "A", use_edns=1)
    answer = dns.query.udp(newer, server, timeout=PATIENCE, port=port)
    equal(answer.rcode(), dns.rcode.BADVERS, "result for a newer edns")
    everything = dns.message.make_query("web.ctr0.", "ANY")
    answer = dns.query.udp(everything, server, timeout=PATIENCE, port=port)
    equal(len(answer.answer), 1, "kinds of records for ANY")
    print("checked")


def watch(server, port, file, names):
    while Path(file).exists():
        for name in names:
            asked = dns.message.make_query(name, "A")
            start = time.monotonic_ns()
            try:
                answer = dns.query.udp(asked, server, timeout=PATIENCE, port=port)
            except dns.exception.Timeout:
                print(start, time.monotonic_ns(), name, "silence", flush=True)
                continue
            end = time.monotonic_ns()
            found = [record.address for rrset in answer.answer for record in rrset]
            print(start, end, name, *found, flush=True)


def main():
    mode, server, port, *rest = sys.argv[1:]
    if mode == "check":
        check(server, int(port))
    else:
        watch(server, int(port), rest[0], rest[1:])


main()
