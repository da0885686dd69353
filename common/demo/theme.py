"""How the page looks: one calm accent on paper, system fonts, room around everything, one column on
a telephone. Nothing of it is fetched."""

import gradio as gr
from gradio.themes.utils import colors, sizes

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "DejaVu Sans Mono", "monospace")

CSS = """
.gradio-container { padding: 12px !important; }
.gradio-container main {
  width: 100% !important; max-width: 1120px !important; margin: 0 auto !important;
}
#title h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -0.02em; margin: 0; }
#title p { color: var(--body-text-color-subdued); margin: 4px 0 0; }
.prose.card { border-left: 3px solid var(--color-accent); padding: 1px 0 1px 14px; }
.card p, .lead p, .limits p { color: var(--body-text-color-subdued); line-height: 1.55; margin: 0; }
.card strong { color: var(--body-text-color); }
.prose.limits { border-top: 1px solid var(--border-color-primary); padding-top: 14px; }
.limits p { font-size: 0.85rem; }
.actions button { flex: 0 1 auto; min-width: 110px; }
.conversation .message img { max-height: 150px; width: auto; }
.conversation .message-buttons-right .icon-button-wrapper { display: none; }
/* What went wrong is told in a message of its own. */
[data-testid="status-tracker"]:has(.error) { display: none !important; }
.sound button.center, .sound .wrap { min-height: 110px; height: 110px; }
.answer textarea { font-size: 1.15rem; }
.prompt textarea { font-family: var(--font-mono); font-size: 0.82rem; }
.ranking { list-style: none; counter-reset: rank; margin: 0; padding: 0; }
.ranking li {
  counter-increment: rank; display: grid; align-items: center; gap: 12px; padding: 9px 4px;
  grid-template-columns: 1.4em minmax(0, 1fr) 90px 3.2em;
  border-bottom: 1px solid var(--border-color-primary);
}
.ranking li::before {
  content: counter(rank); color: var(--body-text-color-subdued); text-align: right;
}
.ranking li:first-child .what { font-weight: 600; }
.ranking .bar {
  height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden;
}
.ranking .bar i { display: block; height: 100%; background: var(--color-accent); }
.ranking .score { font-variant-numeric: tabular-nums; text-align: right; }
.ranking.empty { color: var(--body-text-color-subdued); padding: 40px 12px; text-align: center; }
@media (max-width: 640px) {
  .gradio-container { padding: 0 !important; }
  .gradio-container main { padding: 16px 12px !important; }
  #title h1 { font-size: 1.35rem; }
  .ranking li { grid-template-columns: 1.4em minmax(0, 1fr) 3.2em; }
  .ranking .bar { display: none; }
  .grid-container { grid-template-columns: repeat(2, minmax(0, 1fr)) !important; }
}
"""


def theme() -> gr.themes.Base:
    """Of both light and dark pages."""
    return gr.themes.Base(
        primary_hue=colors.teal,
        secondary_hue=colors.teal,
        neutral_hue=colors.stone,
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="*neutral_50",
        block_background_fill="white",
        block_border_width="1px",
        block_shadow="none",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_text_color="white",
        button_border_width="1px",
        button_secondary_background_fill="white",
        button_secondary_border_color="*neutral_300",
        button_secondary_background_fill_hover="*neutral_100",
    )
