//! Completions and manual pages.

use crate::run;

#[tokio::test]
async fn shells_are_taught_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(":1", &["completions", shell]).await.ok();
        for word in ["network", "disconnect", "dns-upstream", "print-config"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let bash = run(":1", &["completions", "bash"]).await.ok();
    // The shell itself reads it, and completes a command by it.
    let asks = "source /dev/stdin <<<\"$1\"; COMP_WORDS=(circuit net); COMP_CWORD=1; \
                _circuit circuit net circuit; echo \"${COMPREPLY[@]}\"";
    let answer = tokio::process::Command::new("bash")
        .args(["-c", asks, "bash", &bash])
        .output()
        .await
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout),
        "network\n",
        "{answer:?}"
    );
    assert_eq!(run(":1", &["completions", "tcsh"]).await.code, 2);
}

#[tokio::test]
async fn every_command_has_a_page() {
    let page = run(":1", &["man"]).await.ok();
    assert!(page.contains(".TH circuit 1"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("man1");
    run(":1", &["man", "--dir", folder.to_str().unwrap()])
        .await
        .ok();
    for page in [
        "circuit.1",
        "circuit-server.1",
        "circuit-network-connect.1",
        "circuit-man.1",
    ] {
        let text = std::fs::read_to_string(folder.join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let server = std::fs::read_to_string(folder.join("circuit-server.1")).unwrap();
    assert!(server.contains("dns\\-upstream"), "{server}");
    let ran = run(":1", &["man", "--dir", "/dev/null/a"]).await;
    assert_eq!(
        ran.error(),
        "cannot write pages to /dev/null/a: not a directory"
    );
}
