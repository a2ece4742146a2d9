//! Port forwarding over a WebSocket: channels for each port.

use super::*;

#[tokio::test]
async fn each_port_has_two_channels_that_begin_with_its_number() {
    let node = node().await;
    for name in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", ""] {
        let mut client = open(&node.forward(&[7, 99]), name).await;
        let mut heard: [Vec<u8>; 4] = Default::default();
        client.send(client.protocol.numbered(0, b"hello")).await;
        let done = |heard: &[Vec<u8>; 4]| heard[0].len() == 7 && heard[3].len() > 2;
        while !done(&heard) {
            let packet = tokio::time::timeout(SOON, client.socket.next()).await.unwrap().unwrap().unwrap();
            let bytes = match packet {
                Packet::Binary(bytes) => bytes,
                Packet::Text(text) => text.into(),
                other => panic!("{other:?}"),
            };
            let (channel, data) = client.protocol.number_of(&bytes).unwrap();
            heard[usize::from(channel)].extend_from_slice(&data);
        }
        assert_eq!(heard[0], b"\x07\0hello");
        assert_eq!(heard[1], b"\x07\0");
        assert_eq!(heard[2], b"\x63\0");
        let text = String::from_utf8(heard[3][2..].to_vec()).unwrap();
        assert_eq!(text, "error forwarding port 99 to pod sandbox: connection refused");
    }
}

#[tokio::test]
async fn the_connection_closes_when_all_ports_have_ended() {
    let node = node().await;
    let client = open(&node.forward(&[1]), "v4.channel.k8s.io").await;
    let mut packets: Vec<_> = client.socket.collect().await;
    let last = packets.pop().unwrap().unwrap();
    assert!(matches!(last, Packet::Close(_)), "{last:?}");
    assert!(packets.iter().any(|packet| packet.as_ref().is_ok_and(|packet| packet.clone().into_data() == "\0sandbox")));
}

#[tokio::test]
async fn spdy_is_tunnelled() {
    let node = node().await;
    let url = node.forward(&[]);
    let (target, path) = Target::of_url(&url).unwrap();
    let (mut socket, chosen) = try_open(&target, path.as_str(), "SPDY/3.1+portforward.k8s.io").await.unwrap();
    assert_eq!(chosen.as_deref(), Some("SPDY/3.1+portforward.k8s.io"));
    // A ping of SPDY/3.1, in two messages.
    let ping = [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9];
    for part in [&ping[..5], &ping[5..]] {
        socket.send(Packet::Binary(Bytes::copy_from_slice(part))).await.unwrap();
    }
    let answer = tokio::time::timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(answer, Packet::Binary(Bytes::copy_from_slice(&ping)));
}

#[tokio::test]
async fn ports_that_are_none_are_refused_before_there_is_an_address() {
    let node = node().await;
    for ports in [vec![0], vec![65536], vec![-1], vec![1; 128]] {
        let request = PortForwardRequest { pod_sandbox_id: "sandbox".into(), port: ports };
        let status = node.server.register_port_forward(request).unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
}
