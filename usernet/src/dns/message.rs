//! DNS messages (RFC 1035 §4): as much of them as a forwarder must know.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use smoltcp::wire::{DnsPacket, DnsQuestion, DnsRecord, DnsRecordData};

use crate::policy::Name;

/// Size of a header.
pub const HEADER: usize = 12;
/// The most records of an answer that are looked at.
const MAX_RECORDS: u16 = 256;

/// What an answer says of the query (RFC 1035 §4.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// It was not understood.
    FormErr = 1,
    /// There is no answer to be had now.
    ServFail = 2,
    /// It is of a kind that is not served.
    NotImp = 4,
    /// It is not allowed.
    Refused = 5,
}

/// A query for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// The number that its answer must have.
    pub id: u16,
    /// The name in question.
    pub name: Name,
    /// Where the question is.
    pub question: Range<usize>,
}

/// Reads a query.
///
/// # Errors
/// What to answer; `None` when it is no query at all and gets none.
pub fn query(message: &[u8]) -> Result<Query, Option<Rcode>> {
    if message.len() < HEADER || message[2] & 0x80 != 0 {
        return Err(None);
    }
    if message[2] & 0x78 != 0 {
        return Err(Some(Rcode::NotImp));
    }
    let packet = DnsPacket::new_checked(message).map_err(|_| None)?;
    if packet.question_count() != 1 || packet.answer_record_count() != 0 {
        return Err(Some(Rcode::FormErr));
    }
    let bad = |_| Some(Rcode::FormErr);
    let (rest, question) = DnsQuestion::parse(packet.payload()).map_err(bad)?;
    // Nothing stands before it that it could point back to. A pointer into the
    // header would lead elsewhere once the number there is another.
    if !is_written_out(question.name) {
        return Err(Some(Rcode::FormErr));
    }
    Ok(Query {
        id: packet.transaction_id(),
        name: name(&packet, question.name).ok_or(Some(Rcode::FormErr))?,
        question: HEADER..message.len() - rest.len(),
    })
}

/// True for a name without pointers.
fn is_written_out(mut name: &[u8]) -> bool {
    const LONGEST: u8 = 63;
    loop {
        match name.split_first() {
            Some((0, rest)) => return rest.is_empty(),
            Some((&len, rest)) if len <= LONGEST => {
                name = rest.get(usize::from(len)..).unwrap_or_default();
            }
            _ => return false,
        }
    }
}

fn name(packet: &DnsPacket<&[u8]>, bytes: &[u8]) -> Option<Name> {
    let labels: Result<Vec<_>, _> = packet.parse_name(bytes).collect();
    Some(Name::from_labels(labels.ok()?))
}

/// An answer without records to a query. The question is repeated if it was
/// understood.
pub fn refusal(message: &[u8], question: Option<&Range<usize>>, rcode: Rcode) -> Vec<u8> {
    let mut answer = vec![0; HEADER];
    answer[..2].copy_from_slice(message.get(..2).unwrap_or(&[0; 2]));
    let flags = message.get(2).copied().unwrap_or_default();
    // A response to this operation, with its wish for recursion, which is available.
    answer[2] = 0x80 | flags & 0x79;
    answer[3] = 0x80 | rcode as u8;
    if let Some(question) = question.and_then(|q| message.get(q.clone())) {
        answer[5] = 1;
        answer.extend_from_slice(question);
    }
    answer
}

/// True when `answer` is one to a query with this question, whose number in
/// `answer` is `id`. Names may come back in other case.
pub fn is_answer(answer: &[u8], id: u16, question: &[u8]) -> bool {
    answer.len() >= HEADER
        && answer[..2] == id.to_be_bytes()
        && answer[2] & 0x80 != 0
        && match answer[4..6] {
            [0, 1] => answer
                .get(HEADER..HEADER + question.len())
                .is_some_and(|q| q.eq_ignore_ascii_case(question)),
            // An error may come without a question.
            [0, 0] => answer[3] & 0x0f != 0,
            _ => false,
        }
}

/// The addresses in an answer to this question, with their time to live. Aliases
/// on the way are not followed: a resolver's answer to one question belongs
/// together.
pub fn addresses(answer: &[u8], question: &Range<usize>) -> Vec<(IpAddr, Duration)> {
    let mut found = Vec::new();
    let Ok(packet) = DnsPacket::new_checked(answer) else {
        return found;
    };
    let count = packet.answer_record_count().min(MAX_RECORDS);
    let mut rest = answer.get(question.end..).unwrap_or_default();
    for _ in 0..count {
        let Ok((next, record)) = DnsRecord::parse(rest) else {
            return found;
        };
        let ttl = Duration::from_secs(record.ttl.into());
        match record.data {
            DnsRecordData::A(addr) => found.push((addr.into(), ttl)),
            DnsRecordData::Aaaa(addr) => found.push((addr.into(), ttl)),
            _ => {}
        }
        rest = next;
    }
    found
}

#[cfg(test)]
pub mod testing {
    /// A query for the addresses of a name; kind 1 is A and 28 is AAAA.
    pub fn ask(id: u16, name: &str, kind: u16) -> Vec<u8> {
        let mut message = vec![0; super::HEADER];
        message[..2].copy_from_slice(&id.to_be_bytes());
        message[2] = 1;
        message[5] = 1;
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1]);
        message
    }

    /// An answer to a query, by an alias and an address.
    pub fn answer(query: &[u8], addr: [u8; 4], ttl: u32) -> Vec<u8> {
        let mut message = query.to_vec();
        message[2] |= 0x80;
        message[3] = 0x80;
        message[7] = 2;
        // A CNAME that points to the question's own name.
        message.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 9, 0, 2, 0xc0, 12]);
        message.extend([0xc0, 12, 0, 1, 0, 1]);
        message.extend(ttl.to_be_bytes());
        message.extend([0, 4]);
        message.extend(addr);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{answer, ask};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_query_and_its_answer() {
        let message = ask(7, "Www.Debian.ORG", 1);
        let query = query(&message).unwrap();
        assert_eq!((query.id, query.name.as_str()), (7, "www.debian.org"));
        let question = &message[query.question.clone()];
        let answer = answer(&message, [192, 0, 2, 1], 300);
        assert!(is_answer(&answer, 7, question));
        assert!(!is_answer(&answer, 8, question));
        assert!(!is_answer(&message, 7, question));
        assert!(!is_answer(&ask(7, "deb.debian.com", 1), 7, question));
        let found = addresses(&answer, &query.question);
        assert_eq!(
            found,
            [("192.0.2.1".parse().unwrap(), Duration::from_secs(300))]
        );

        let refused = refusal(&message, Some(&query.question), Rcode::Refused);
        assert!(is_answer(&refused, 7, question));
        assert_eq!((refused[2], refused[3]), (0x81, 0x85));
        assert!(addresses(&refused, &query.question).is_empty());
        let bare = refusal(&message, None, Rcode::ServFail);
        assert!(is_answer(&bare, 7, question) && bare.len() == HEADER);
    }

    #[test]
    fn what_is_no_query() {
        let good = ask(1, "a.b", 1);
        let with = |change: fn(&mut Vec<u8>)| {
            let mut message = good.clone();
            change(&mut message);
            query(&message).map(|q| q.id)
        };
        assert_eq!(with(|_| {}), Ok(1));
        assert_eq!(with(|m| m[2] |= 0x80), Err(None));
        assert_eq!(with(|m| m.truncate(11)), Err(None));
        assert_eq!(with(|m| m[2] = 0x28), Err(Some(Rcode::NotImp)));
        assert_eq!(with(|m| m[5] = 2), Err(Some(Rcode::FormErr)));
        assert_eq!(with(|m| m[5] = 0), Err(Some(Rcode::FormErr)));
        assert_eq!(with(|m| m[7] = 1), Err(Some(Rcode::FormErr)));
        assert_eq!(with(|m| m.truncate(15)), Err(Some(Rcode::FormErr)));
        assert_eq!(with(|m| m[12] = 0xc0), Err(Some(Rcode::FormErr)));
        assert_eq!(with(|m| m[12] = 0x80), Err(Some(Rcode::FormErr)));
        // The class of Chaos.
        assert_eq!(
            with(|m| {
                let n = m.len();
                m[n - 1] = 3;
            }),
            Err(Some(Rcode::FormErr))
        );
    }

    #[test]
    fn a_question_points_nowhere() {
        // Its first label begins in the number, which is not the one that goes out:
        // another length, and the name is another.
        let mut message = vec![17, b'x', 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend([0xc0, 0, 0, 1, 0, 1]);
        message.extend(b"\x07allowed\x03org\x00");
        let packet = DnsPacket::new_checked(&message[..]).unwrap();
        let found = name(&packet, &message[HEADER..HEADER + 2]).unwrap();
        assert!(found.as_str().ends_with("?.allowed.org"), "{found}");
        assert_eq!(query(&message), Err(Some(Rcode::FormErr)));
        for (name, plain) in [
            (&b"\x01a\x00"[..], true),
            (b"\x00", true),
            (b"\x01a\xc0\x0c", false),
            (b"\x01a", false),
            (b"\x3fa\x00", false),
            (b"", false),
        ] {
            assert_eq!(is_written_out(name), plain, "{name:?}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = query(&bytes);
            let _ = addresses(&bytes, &(HEADER..bytes.len().min(20)));
            let _ = refusal(&bytes, None, Rcode::FormErr);
            let _ = is_answer(&bytes, 1, &bytes);
        }
    }
}
