"""The chart of the view Train, drawn from numbers that are known."""

DRAWN = """async () => {
  const { html, render, signal } = await import("/ui/core/html.js");
  const { Chart } = await import("/ui/train/chart.js");
  const job = (name, nats) => ({
    reply: signal({ name }), progress: signal({ n_steps: 40 }),
    training: signal(nats.map((one, at) => ({ step: 10 * (at + 1), nats: one + 0.2 }))),
    validation: signal(nats.map((one, at) => ({
      step: 10 * (at + 1), nats: one, bits: one / Math.LN2, isBest: true }))),
  });
  const frame = document.body.appendChild(document.createElement("div"));
  const [one, other] = [job("one", [3, 2.4, 2.2]), job("other", [3.3, 2.9])];
  const scales = { uniform: 4.5, unigram: 3.2, bigram: 2.5 };
  const drawn = (compared) => {
    render(html`<${Chart} job=${one} other=${compared} scales=${scales} />`, frame);
    return {
      dots: frame.querySelectorAll(".held").length,
      best: frame.querySelectorAll(".best").length,
      points: frame.querySelector(".compared")?.getAttribute("d").match(/[ML]/g).length ?? 0,
      words: frame.querySelector("figcaption").textContent,
      ticks: [...frame.querySelectorAll(".tick")].map((tick) => Number(tick.textContent))
        .map((n) => (Number.isNaN(n) ? null : n)),
    };
  };
  return [drawn(null), drawn(other)];
}"""


def test_another_job_lies_over_the_shown_one(browsing):
    alone, compared = browsing.page("#/models").evaluate(DRAWN)
    assert (alone["dots"], alone["best"], alone["points"]) == (3, 1, 0)
    assert (compared["dots"], compared["best"], compared["points"]) == (3, 1, 2)
    assert "other, dashed: 4.184 bits a character at step 20." in compared["words"]
    ticks = [one for one in alone["ticks"] if one is not None]  # the last is a sentence
    assert len(ticks) > 3
    assert all(2 * one == int(2 * one) for one in ticks), "they are round"
