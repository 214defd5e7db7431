use tokio::io::{DuplexStream, duplex};

use super::*;

const WHO: Incarnation = Incarnation::new(7);

fn key(secret: &str) -> HandoffKey {
    HandoffKey::new(Some(&ClusterSecret::new(secret).unwrap()))
}

type Outcome = Result<(), HandshakeError>;

/// A handshake between two sides in memory.
async fn shake(client: &HandoffKey, server: &HandoffKey, expected: Incarnation) -> [Outcome; 2] {
    let (mut near, mut far) = duplex(4096);
    let greeted = greet(&mut near, client, expected);
    let welcomed = welcome(&mut far, server, WHO, || Some(()));
    let (greeted, welcomed) = tokio::join!(greeted, welcomed);
    [greeted, welcomed]
}

#[tokio::test]
async fn the_same_secret_is_welcome() {
    let [client, server] = shake(&key("s"), &key("s"), WHO).await;
    assert!(client.is_ok() && server.is_ok());
    let public = HandoffKey::new(None);
    let [client, server] = shake(&public, &public, WHO).await;
    assert!(client.is_ok() && server.is_ok());
}

#[tokio::test]
async fn another_secret_is_refused_on_both_sides() {
    for client in [key("t"), HandoffKey::new(None)] {
        let [client, server] = shake(&client, &key("s"), WHO).await;
        assert!(matches!(client, Err(HandshakeError::Auth)), "{client:?}");
        assert!(matches!(server, Err(HandshakeError::Auth)), "{server:?}");
    }
}

#[tokio::test]
async fn another_incarnation_says_so_only_to_those_who_share_the_secret() {
    let [client, server] = shake(&key("s"), &key("s"), Incarnation::new(8)).await;
    assert!(matches!(client, Err(HandshakeError::WrongIncarnation)), "{client:?}");
    assert!(matches!(server, Err(HandshakeError::WrongIncarnation)), "{server:?}");
    let [client, _] = shake(&key("t"), &key("s"), Incarnation::new(8)).await;
    assert!(matches!(client, Err(HandshakeError::Auth)), "{client:?}");
}

#[tokio::test]
async fn without_a_place_the_client_is_told_to_come_again() {
    let (mut near, mut far) = duplex(4096);
    let key = key("s");
    let (client, server) =
        tokio::join!(greet(&mut near, &key, WHO), welcome(&mut far, &key, WHO, || None::<()>));
    assert!(matches!(client, Err(HandshakeError::Busy)), "{client:?}");
    assert!(matches!(server, Err(HandshakeError::Busy)), "{server:?}");
}

/// Plays the server's part with a proof that `forge` makes from what the client sent.
async fn forged(
    mut far: DuplexStream,
    actual: Incarnation,
    forge: impl Fn([u8; PROOF_BYTES]) -> [u8; PROOF_BYTES],
) {
    let Ok(Frame::Hello { .. }) = receive(&mut far).await else { panic!("no hello") };
    let challenge = Frame::Challenge { version: VERSION, nonce: [0; NONCE_BYTES], actual };
    send(&mut far, &challenge).await.unwrap();
    let Ok(Frame::Proof(proof)) = receive(&mut far).await else { panic!("no proof") };
    send(&mut far, &Frame::Welcome(forge(proof))).await.unwrap();
}

#[tokio::test]
async fn a_server_that_sends_the_proof_back_is_no_server() {
    let (mut near, far) = duplex(4096);
    let key = key("s");
    let (client, ()) = tokio::join!(greet(&mut near, &key, WHO), forged(far, WHO, |proof| proof));
    assert!(matches!(client, Err(HandshakeError::Auth)), "{client:?}");
}

#[tokio::test]
async fn a_stranger_cannot_make_a_client_give_data_up() {
    let (mut near, far) = duplex(4096);
    let key = key("s");
    let other = Incarnation::new(8);
    let (client, ()) =
        tokio::join!(greet(&mut near, &key, WHO), forged(far, other, |_| [0; PROOF_BYTES]));
    assert!(matches!(client, Err(HandshakeError::Auth)), "{client:?}");
}

#[tokio::test]
async fn another_version_is_named() {
    let (mut near, mut far) = duplex(4096);
    let hello = Frame::Hello { version: VERSION + 1, nonce: [0; 32], expected: WHO };
    send(&mut near, &hello).await.unwrap();
    let server = welcome(&mut far, &key("s"), WHO, || Some(())).await;
    assert!(matches!(server, Err(HandshakeError::Version { theirs }) if theirs == VERSION + 1));
    assert!(matches!(receive(&mut near).await, Ok(Frame::Goodbye(Reason::Version))));
}

#[tokio::test]
async fn a_request_before_the_handshake_is_out_of_turn() {
    let (mut near, mut far) = duplex(4096);
    send(&mut near, &Frame::Ping { request: 1 }).await.unwrap();
    let server = welcome(&mut far, &key("s"), WHO, || Some(())).await;
    assert!(matches!(server, Err(HandshakeError::Turn(18))), "{server:?}");
}

#[tokio::test]
async fn a_large_frame_before_the_handshake_is_refused_unread() {
    let (mut near, mut far) = duplex(4096);
    let prefix = [0, 1, 0, 0, 16];
    near.write_all(&prefix).await.unwrap();
    let server = welcome(&mut far, &key("s"), WHO, || Some(())).await;
    assert!(matches!(server, Err(HandshakeError::Frame(FrameError::Length { .. }))), "{server:?}");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_the_handshake() {
    let (_near, mut far) = duplex(64);
    let server = welcome(&mut far, &key("s"), WHO, || Some(())).await;
    assert!(matches!(server, Err(HandshakeError::TimedOut)), "{server:?}");
}

#[test]
fn a_secret_shows_nothing_of_itself() {
    let secret = ClusterSecret::new("hunter2").unwrap();
    let shown = format!("{secret:?} {:?}", HandoffKey::new(Some(&secret)));
    assert_eq!(shown, "ClusterSecret(..) HandoffKey { secret: true, .. }");
    assert_eq!(ClusterSecret::new("").unwrap_err(), EmptySecret);
    assert_ne!(key("a").bytes, key("b").bytes);
}
