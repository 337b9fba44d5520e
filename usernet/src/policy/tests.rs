use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn policy(text: &str) -> Policy {
    text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn name(text: &str) -> Name {
    Name::from_labels(text.split('.').map(str::as_bytes))
}

/// Whether `text` lets a flow to `addr`, known as `names`, through.
fn allows(text: &str, addr: &str, port: u16, protocol: Protocol, names: &[&str]) -> bool {
    let to = Destination {
        protocol,
        addr: addr.parse::<IpAddr>().unwrap(),
        port: (protocol != Protocol::Icmp).then_some(port),
    };
    let action = policy(text).decide(to, |_, pattern| {
        names.iter().any(|n| pattern.matches(&name(n)))
    });
    action == Action::Allow
}

#[test]
fn the_first_match_counts() {
    use Protocol::{Icmp, Tcp, Udp};
    let lan = "deny:10.1.2.3,allow:10.0.0.0/8:443/tcp,allow:10.0.0.0/8:53,deny";
    for (addr, port, protocol, expected) in [
        ("10.9.9.9", 443, Tcp, true),
        ("10.9.9.9", 443, Udp, false),
        ("10.9.9.9", 53, Udp, true),
        ("10.9.9.9", 53, Tcp, true),
        ("10.9.9.9", 80, Tcp, false),
        ("10.1.2.3", 443, Tcp, false),
        ("11.0.0.1", 443, Tcp, false),
        // A rule with ports is not about echo requests.
        ("10.9.9.9", 0, Icmp, false),
    ] {
        assert_eq!(
            allows(lan, addr, port, protocol, &[]),
            expected,
            "{addr}:{port}"
        );
    }
    assert!(allows("allow:*:*/icmp", "1.2.3.4", 0, Icmp, &[]));
    assert!(!allows("allow:*:*/icmp", "1.2.3.4", 80, Tcp, &[]));
    assert!(allows("allow:*:80+8000-8002", "1.2.3.4", 8002, Tcp, &[]));
    assert!(!allows("allow:*:80+8000-8002", "1.2.3.4", 8003, Tcp, &[]));
    assert!(allows(
        "allow:[2001:db8::/32]:443",
        "2001:db8::1",
        443,
        Tcp,
        &[]
    ));
    assert!(!allows(
        "allow:[2001:db8::/32]:443",
        "2001:db9::1",
        443,
        Tcp,
        &[]
    ));
    assert!(!allows(
        "allow:[2001:db8::/32]:443",
        "1.2.3.4",
        443,
        Tcp,
        &[]
    ));
}

#[test]
fn what_no_rule_matches() {
    use Protocol::Tcp;
    for (text, expected) in [
        ("allow", true),
        ("deny", false),
        // A list of what is allowed means that the rest is not.
        ("allow:10.0.0.0/8", false),
        ("deny:10.0.0.0/8", true),
        ("deny:10.0.0.0/8,allow:10.1.0.0/16", false),
        ("allow:10.0.0.0/8,allow", true),
        ("deny:10.0.0.0/8,deny", false),
    ] {
        assert_eq!(allows(text, "192.0.2.1", 80, Tcp, &[]), expected, "{text}");
    }
    assert_eq!(Policy::default(), policy("allow"));
}

#[test]
fn names_match_what_was_resolved() {
    use Protocol::Tcp;
    let text = "deny:evil.debian.org,allow:*.debian.org:443,allow:Example.ORG.";
    for (names, port, expected) in [
        (&["www.debian.org"][..], 443, true),
        (&["www.debian.org"], 80, false),
        (&["a.b.debian.org"], 443, true),
        (&["debian.org"], 443, false),
        (&["xdebian.org"], 443, false),
        (&["evil.debian.org"], 443, false),
        (&["www.debian.org", "evil.debian.org"], 443, false),
        (&["other.net", "example.org"], 22, true),
        (&["sub.example.org"], 22, false),
        (&[], 443, false),
    ] {
        assert_eq!(
            allows(text, "192.0.2.1", port, Tcp, names),
            expected,
            "{names:?}"
        );
    }
}

#[test]
fn what_may_be_looked_up() {
    for (text, asked, expected) in [
        ("allow", "example.org", true),
        ("deny", "example.org", false),
        ("allow:example.org:443", "example.org", true),
        ("allow:example.org:443", "sub.example.org", false),
        ("allow:*.example.org:443", "sub.example.org", true),
        // Addresses say nothing about names.
        ("allow:10.0.0.0/8", "example.org", false),
        ("deny:10.0.0.0/8", "example.org", true),
        ("allow:*:443", "example.org", true),
        ("deny:example.org", "example.org", false),
        // The other ports must still be found.
        ("deny:example.org:25", "example.org", true),
        (
            "deny:example.org:*/udp,allow:example.org",
            "example.org",
            true,
        ),
        (
            "deny:*.example.org,allow:a.example.org",
            "a.example.org",
            false,
        ),
    ] {
        assert_eq!(
            policy(text).resolves(&name(asked)),
            expected,
            "{text} {asked}"
        );
    }
    // A name with bytes that no rule has must not look like another.
    let odd = Name::from_labels([&b"a.debian.org"[..], b"evil"]);
    assert_eq!(odd.as_str(), "a?debian?org.evil");
    assert!(!policy("allow:*.debian.org").resolves(&odd));
    assert!(!policy("deny").resolves(&Name::from_labels([])));
}

#[test]
fn what_is_denied_is_so_by_each_spelling() {
    use Protocol::Tcp;
    for (policy, addr, expected) in [
        ("deny:192.0.2.0/24", "64:ff9b::192.0.2.1", false),
        ("deny:192.0.2.0/24", "64:ff9b::192.0.3.1", true),
        ("deny:192.0.2.0/24", "64:ff9b:1::192.0.2.1", false),
        ("deny:192.0.2.0/24", "2002:c000:0201::1", false),
        ("deny:192.0.2.0/24", "2001:db8::c000:201", true),
        ("deny:[64:ff9b::/96]", "64:ff9b::192.0.2.1", false),
        // What is behind a translator is not what was allowed.
        ("allow:192.0.2.0/24", "64:ff9b::192.0.2.1", false),
    ] {
        assert_eq!(
            allows(policy, addr, 443, Tcp, &[]),
            expected,
            "{policy} {addr}"
        );
    }
}

#[test]
fn bad_policies_name_the_part() {
    for (text, message) in [
        (
            "",
            "'' is no rule: write 'allow' or 'deny', or 'allow:TARGET[:PORTS][/PROTOCOL]'",
        ),
        (
            "permit:*",
            "'permit:*' is no rule: write 'allow' or 'deny', or 'allow:TARGET[:PORTS][/PROTOCOL]'",
        ),
        (
            "deny,allow:*",
            "'allow:*' stands behind the rule for everything else, which must be the last",
        ),
        (
            "allow:10.0.0.0/33",
            "'10.0.0.0/33' is neither an address nor a block such as '10.0.0.0/8'",
        ),
        (
            "allow:10.0.0",
            "'10.0.0' is neither an address nor a block such as '10.0.0.0/8'",
        ),
        (
            "allow:fd00::/8",
            "'fd00::/8' is no rule: an IPv6 address stands in brackets, as in '[2001:db8::/32]:443'",
        ),
        ("allow:a..b", "'a..b' is not a DNS name"),
        ("allow:a b", "'a b' is not a DNS name"),
        (
            "allow:a.*.b",
            "'a.*.b' has a wildcard that is not the whole first label: write '*.example.org'",
        ),
        (
            "allow:a:0",
            "'0' is not a list of ports: write '443', '80+443' or '8000-8080'",
        ),
        (
            "allow:a:9-8",
            "'9-8' is not a list of ports: write '443', '80+443' or '8000-8080'",
        ),
        (
            "allow:a:+80",
            "'' is not a list of ports: write '443', '80+443' or '8000-8080'",
        ),
        (
            "allow:a:65536",
            "'65536' is not a list of ports: write '443', '80+443' or '8000-8080'",
        ),
        (
            "allow:[::1]443",
            "'443' is not a list of ports: write '443', '80+443' or '8000-8080'",
        ),
        (
            "allow:a:80/sctp",
            "'sctp' is no protocol: write 'tcp', 'udp' or 'icmp'",
        ),
        (
            "allow:a:80/icmp",
            "'allow:a:80/icmp' has ports, which icmp does not know",
        ),
    ] {
        let error = text.parse::<Policy>().unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
    }
    let many = vec!["deny:a"; MAX_RULES + 1].join(",");
    assert!(matches!(
        many.parse::<Policy>(),
        Err(PolicyError::TooMany(_))
    ));
}

#[test]
fn text_and_json_say_the_same() {
    for text in [
        "allow",
        "deny",
        "allow:10.0.0.0/8:443/tcp,allow:*.debian.org:443,deny:*,deny",
        "allow:[fd00::/8]:80+443/udp,deny:[2001:db8::1],deny",
        "deny:1.2.3.4:*/icmp,deny:*:*/udp,allow",
    ] {
        assert_eq!(policy(text).to_string(), text);
        let json = serde_json::to_string(&policy(text)).unwrap();
        assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy(text));
    }
    assert_eq!(policy("allow:a.b/udp"), policy("allow:a.b:*/udp"));
    assert_eq!(policy("allow:[::1]/udp"), policy("allow:[::1]:*/udp"));
    assert_eq!(
        policy("allow:10.0.0.0/8/udp"),
        policy("allow:10.0.0.0/8:*/udp")
    );
    assert_eq!(policy("allow:10.9.9.9/8"), policy("allow:10.0.0.0/8"));
    let json = r#"{"default":"deny","rules":[{"action":"allow","target":"*.debian.org","ports":["80","8000-8080"],"protocol":"tcp"}]}"#;
    let from_json: Policy = serde_json::from_str(json).unwrap();
    assert_eq!(from_json, policy("allow:*.debian.org:80+8000-8080/tcp"));
    assert_eq!(serde_json::to_string(&from_json).unwrap(), json);
    assert!(serde_json::from_str::<Policy>(r#"{"rules":[]}"#).is_err());
}

proptest! {
    #[test]
    fn any_text_is_refused_or_comes_back(text in "(allow|deny)(:[a-z0-9.*/:+\\[\\]-]{0,20})?(,(allow|deny)(:[a-z0-9.*/:+\\[\\]-]{0,20})?){0,3}") {
        if let Ok(policy) = text.parse::<Policy>() {
            let again: Policy = policy.to_string().parse().unwrap();
            prop_assert_eq!(again, policy);
        }
    }
}
