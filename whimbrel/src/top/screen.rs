//! `top` on a terminal.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Color, Style, Stylize as _},
    text::Line,
    widgets::{Row, Table},
};

use super::{Answer, ask, rows};

/// Between two looks at the routers.
const REFRESH: Duration = Duration::from_secs(1);
/// How long a key may wait to be heard.
const KEY_POLL: Duration = Duration::from_millis(100);
/// Where a node's health stands.
const HEALTH: usize = 6;

/// Shows the cluster until `q`, Esc or Ctrl-C.
pub(super) async fn run(client: &reqwest::Client, urls: &[String]) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init().context("this needs a terminal; for scripts there is --once")?;
    let over = Arc::new(AtomicBool::new(false));
    let outcome = show(&mut terminal, client, urls, Arc::clone(&over)).await;
    over.store(true, Ordering::Relaxed);
    ratatui::restore();
    outcome
}

async fn show(
    terminal: &mut DefaultTerminal,
    client: &reqwest::Client,
    urls: &[String],
    over: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    let mut keys = tokio::task::spawn_blocking(move || wait_for_the_end(&over));
    let mut refresh = tokio::time::interval(REFRESH);
    loop {
        let answers = tokio::select! {
            ended = &mut keys => return ended.context("the keyboard's thread")?,
            answers = async {
                refresh.tick().await;
                ask(client, urls).await
            } => answers,
        };
        terminal.draw(|frame| draw(frame, &answers)).context("drawing")?;
    }
}

/// Returns when somebody wants it to end, or it is over.
fn wait_for_the_end(over: &AtomicBool) -> anyhow::Result<()> {
    while !over.load(Ordering::Relaxed) {
        if !event::poll(KEY_POLL).context("the keyboard")? {
            continue;
        }
        let Event::Key(key) = event::read().context("the keyboard")? else {
            continue;
        };
        let interrupted = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        let pressed = key.kind == KeyEventKind::Press;
        if pressed && (interrupted || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)) {
            break;
        }
    }
    Ok(())
}

fn draw(frame: &mut Frame<'_>, answers: &[Answer]) {
    let (routers, nodes) = (rows::of_routers(answers), rows::of_nodes(answers));
    let routers_height = u16::try_from(routers.len() + 2).unwrap_or(u16::MAX);
    let [above, below, foot] = Layout::vertical([
        Constraint::Length(routers_height),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(table(&rows::ROUTER_COLUMNS, &routers, |_| Style::new()), above);
    frame.render_widget(
        table(&rows::NODE_COLUMNS, &nodes, |row| color(&row[HEALTH])),
        below,
    );
    frame.render_widget(Line::from("q ends it").dim(), foot);
}

fn table<const N: usize>(
    columns: &[&'static str; N],
    rows: &[[String; N]],
    style: impl Fn(&[String; N]) -> Style,
) -> Table<'static> {
    let widths = rows::widths(columns, rows).map(|width| {
        let width = u16::try_from(width).unwrap_or(u16::MAX);
        Constraint::Length(width)
    });
    let lines = rows.iter().map(|row| Row::new(row.clone()).style(style(row)));
    Table::new(lines, widths)
        .header(Row::new(*columns).bold())
        .column_spacing(2)
}

fn color(health: &str) -> Style {
    match health {
        "ready" => Style::new(),
        "starting" | "draining" | "unknown" => Style::new().fg(Color::Yellow),
        "gone" => Style::new().fg(Color::DarkGray),
        _ => Style::new().fg(Color::Red),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;

    #[test]
    fn a_small_screen_shows_what_fits() {
        for (width, height) in [(120, 20), (20, 4), (1, 1)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            let answers = [Answer {
                url: "http://127.0.0.1:1".to_owned(),
                seen: Err("no answer".to_owned()),
            }];
            terminal.draw(|frame| draw(frame, &answers)).unwrap();
            let shown: String = terminal
                .backend()
                .buffer()
                .content()
                .iter()
                .map(|cell| cell.symbol())
                .collect();
            assert!(width < 120 || shown.contains("http://127.0.0.1:1"), "{shown}");
        }
    }
}
