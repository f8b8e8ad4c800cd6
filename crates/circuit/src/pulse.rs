//! Whether the daemon's loops still turn: they are asked, and answer between two
//! of their steps. Nothing wakes a loop as long as nobody asks.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// Asks loops for signs of life.
#[derive(Debug)]
pub struct Pulse {
    question: watch::Sender<u64>,
    answer: mpsc::UnboundedSender<(usize, u64)>,
    answers: mpsc::UnboundedReceiver<(usize, u64)>,
    loops: Vec<&'static str>,
}

/// A loop's side.
#[derive(Debug)]
pub struct Answerer {
    number: usize,
    question: watch::Receiver<u64>,
    answer: mpsc::UnboundedSender<(usize, u64)>,
}

impl Default for Pulse {
    fn default() -> Self {
        let (answer, answers) = mpsc::unbounded_channel();
        Self {
            question: watch::Sender::new(0),
            answer,
            answers,
            loops: Vec::new(),
        }
    }
}

impl Pulse {
    /// The answering side for one more loop.
    pub fn answerer(&mut self, name: &'static str) -> Answerer {
        self.loops.push(name);
        Answerer {
            number: self.loops.len() - 1,
            question: self.question.subscribe(),
            answer: self.answer.clone(),
        }
    }

    /// Asks every loop and waits until each has answered. After `patience`, once,
    /// `silent` is told of those that have not.
    pub async fn ask(&mut self, patience: Duration, silent: impl FnOnce(&[&'static str])) {
        self.question.send_modify(|number| *number += 1);
        let number = *self.question.borrow();
        let mut missing: Vec<_> = (0..self.loops.len()).collect();
        let all = async |missing: &mut Vec<usize>, answers: &mut mpsc::UnboundedReceiver<_>| {
            while !missing.is_empty() {
                // This side holds a sender: the channel does not end.
                if let Some((from, to)) = answers.recv().await
                    && to == number
                {
                    missing.retain(|one| *one != from);
                }
            }
        };
        let in_time = all(&mut missing, &mut self.answers);
        if tokio::time::timeout(patience, in_time).await.is_err() {
            let names: Vec<_> = missing.iter().map(|one| self.loops[*one]).collect();
            silent(&names);
            all(&mut missing, &mut self.answers).await;
        }
    }
}

impl Answerer {
    /// Waits for the next question and answers it.
    pub async fn answer(&mut self) {
        if self.question.changed().await.is_err() {
            // Nobody asks any more.
            std::future::pending::<()>().await;
        }
        let number = *self.question.borrow_and_update();
        let _ = self.answer.send((self.number, number));
    }

    /// Answers for a loop that cannot do so itself while its task makes headway.
    pub async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                result = &mut work => return result,
                () = self.answer() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_turn_is_named() {
        let mut pulse = Pulse::default();
        let mut turning = pulse.answerer("turning");
        tokio::spawn(async move {
            loop {
                turning.answer().await;
            }
        });
        let stuck = pulse.answerer("stuck");
        let (go, wait) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let _ = wait.await;
            stuck.during(std::future::pending::<()>()).await;
        });
        let mut told = Vec::new();
        let asked = pulse.ask(Duration::from_secs(5), |silent| told = silent.to_vec());
        let waited = tokio::time::timeout(Duration::from_secs(60), asked).await;
        assert!(waited.is_err(), "a stuck loop was taken for a turning one");
        assert_eq!(told, ["stuck"]);
        let _ = go.send(());
        pulse.ask(Duration::from_secs(5), |_| unreachable!()).await;
    }
}
