//! Requests against servers that answer with what they are told, over real sockets on loopback.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

const PATIENT: Duration = Duration::from_secs(10);

/// A server that gives one answer after the other, each on a connection of its own, and what it was asked.
struct Server {
    port: u16,
    asked: tokio::task::JoinHandle<Vec<String>>,
}

async fn server(answers: Vec<String>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let asked = tokio::spawn(async move {
        let mut asked = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let byte = stream.read_u8().await.expect("a request");
                request.push(byte);
            }
            asked.push(String::from_utf8(request).expect("text"));
            // Whoever has read enough goes.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        asked
    });
    Server { port, asked }
}

fn answer(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    answer("302 Found", &format!("Location: {to}\r\n"), "")
}

async fn get(port: u16, path: &str, headers: &[(&str, &str)]) -> Result<Answered, String> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let url = url(None, "127.0.0.1", port, path)?;
    Get { url, headers, agent: "kube-probe/1.36", reach: Reach::default() }.send(PATIENT).await
}

async fn judged(answers: Vec<String>) -> Verdict {
    let server = server(answers).await;
    judge(get(server.port, "/", &[]).await.expect("a result"))
}

#[tokio::test]
async fn a_request_is_the_kubelets() {
    let server = server(vec![answer("200 OK", "", "")]).await;
    let headers = [("X-A", "1"), ("X-A", "2"), ("User-Agent", "own")];
    get(server.port, "/path?q=a b#part", &headers).await.expect("a result").expect("an answer");
    let asked = server.asked.await.expect("asked");
    let mut lines: Vec<&str> = asked[0].lines().collect();
    assert_eq!(lines.remove(0), "GET /path?q=a%20b HTTP/1.1");
    lines.sort_unstable();
    let host = format!("Host: 127.0.0.1:{}", server.port);
    assert_eq!(lines, ["", "Accept: */*", "Connection: close", &host, "User-Agent: own", "X-A: 1", "X-A: 2"]);
}

#[tokio::test]
async fn own_headers_go_before_and_an_empty_accept_goes_away() {
    let server = server(vec![answer("200 OK", "", "")]).await;
    get(server.port, "x", &[("Host", "app"), ("Accept", "")]).await.expect("a result").expect("an answer");
    let asked = server.asked.await.expect("asked");
    let mut lines: Vec<&str> = asked[0].lines().collect();
    assert_eq!(lines.remove(0), "GET /x HTTP/1.1");
    lines.sort_unstable();
    assert_eq!(lines, ["", "Connection: close", "Host: app", "User-Agent: kube-probe/1.36"]);
}

#[tokio::test]
async fn from_200_to_399_is_success() {
    let failure = |code: u16| Verdict::Failure(format!("HTTP probe failed with statuscode: {code}"));
    let table = [
        ("200 OK", Verdict::Success),
        ("204 No Content", Verdict::Success),
        ("299 Whatever", Verdict::Success),
        ("304 Not Modified", Verdict::Warning("Probe terminated redirects, Response body: ".into())),
        ("400 Bad Request", failure(400)),
        ("503 Service Unavailable", failure(503)),
    ];
    for (status, verdict) in table {
        assert_eq!(judged(vec![answer(status, "", "")]).await, verdict, "{status}");
    }
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let good = || answer("200 OK", "", "");
    assert_eq!(judged(vec![redirect("/next"), redirect("over"), good()]).await, Verdict::Success);
    let elsewhere = answer("302 Found", "Location: http://other.example/\r\n", "see there");
    assert_eq!(
        judged(vec![elsewhere]).await,
        Verdict::Warning("Probe terminated redirects, Response body: see there".into())
    );
    // The tenth request is the last.
    let mut nine = vec![redirect("/again"); 9];
    nine.push(good());
    assert_eq!(judged(nine).await, Verdict::Success);
    let Verdict::Failure(why) = judged(vec![redirect("/again"); 10]).await else { panic!("it goes on for ever") };
    assert!(why.ends_with("stopped after 10 redirects"), "{why}");
}

#[tokio::test]
async fn the_port_of_the_same_host_may_change_and_the_path_is_kept() {
    let second = server(vec![answer("200 OK", "", "")]).await;
    let first = server(vec![redirect(&format!("http://127.0.0.1:{}/there?x=1", second.port))]).await;
    let headers = [("Host", "app")];
    assert_eq!(judge(get(first.port, "/", &headers).await.expect("a result")), Verdict::Success);
    let asked = second.asked.await.expect("asked");
    assert!(asked[0].starts_with("GET /there?x=1 HTTP/1.1\r\n"), "{}", asked[0]);
    assert!(asked[0].contains(&format!("Host: 127.0.0.1:{}\r\n", second.port)), "the host is another: {}", asked[0]);
}

#[tokio::test]
async fn of_a_body_ten_kibibytes_are_read() {
    let long = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(1 << 20));
    let server = server(vec![long]).await;
    let answer = get(server.port, "/", &[]).await.expect("a result").expect("an answer");
    assert_eq!(answer.body.len(), 10 << 10);
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_body_that_breaks_off_says_nothing() {
    let server = server(vec!["HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf".to_owned()]).await;
    get(server.port, "/", &[]).await.expect_err("no result");
}

#[tokio::test]
async fn what_cannot_be_reached_or_understood_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let refused = get(port, "/x", &[]).await.expect("a result").expect_err("nobody listens");
    let wanted = format!("Get \"http://127.0.0.1:{port}/x\": dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(refused, wanted);
    let server = server(vec![String::new()]).await;
    let closed = get(server.port, "/", &[]).await.expect("a result").expect_err("it hangs up");
    assert_eq!(closed, format!("Get \"http://127.0.0.1:{}/\": EOF", server.port));
}

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_no_longer_than_the_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let url = url(Some("HTTP"), "127.0.0.1", port, "/").expect("a URL");
    let get = Get { url, headers: Vec::new(), agent: "a", reach: Reach::default() };
    let late = get.send(Duration::from_millis(50)).await.expect("a result").expect_err("it says nothing");
    let wanted = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    assert_eq!(late, format!("Get \"http://127.0.0.1:{port}/\": {wanted}"));
}

#[test]
fn the_path_names_no_host() {
    let made = |scheme, host, path: &str| url(scheme, host, 80, path).map(|url| shown(&url)).expect("a URL");
    assert_eq!(made(None, "10.0.0.1", ""), "http://10.0.0.1:80/");
    assert_eq!(made(Some("HTTPS"), "10.0.0.1", "/a?b=c"), "https://10.0.0.1:80/a?b=c");
    assert_eq!(made(None, "10.0.0.1", "a/b"), "http://10.0.0.1:80/a/b");
    assert_eq!(made(None, "10.0.0.1", "http://evil/x?y"), "http://10.0.0.1:80/x?y");
    assert_eq!(made(None, "10.0.0.1", "//evil/x"), "http://10.0.0.1:80/x");
    assert_eq!(made(None, "fd00::1", "/"), "http://[fd00::1]:80/");
}
