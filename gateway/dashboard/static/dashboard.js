// Times in the viewer's zone, and the charts. Pages can be read without it.
"use strict";

const REDRAW = window.matchMedia("(prefers-color-scheme: dark)");
const ZONED = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;

// Where a figure has times; elsewhere a name may only look like one.
const TIMES = ["x", "range", "hovertext"];

function localise() {
  const parts = { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit" };
  const year = new Date().getFullYear();
  const shapes = [parts, { year: "numeric", ...parts }].map((each) => new Intl.DateTimeFormat(undefined, each));
  for (const each of document.querySelectorAll("time[datetime]")) {
    const at = new Date(each.dateTime);
    each.title = each.textContent.trim();
    each.textContent = shapes[at.getFullYear() === year ? 0 : 1].format(at);
  }
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const each of document.querySelectorAll("[data-zone]")) each.textContent = zone;
}

// A moment as plotly's date axes take it: local, and without a zone.
function local(text) {
  const at = new Date(text);
  return new Date(at.getTime() - at.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

const hour = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

// A figure as the server wrote it, with the style sheet's colours and the viewer's times.
function dressed(value, colours, key) {
  if (Array.isArray(value)) return value.map((each) => dressed(each, colours, key));
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, dressed(each, colours, name)]));
  }
  if (typeof value !== "string") return value;
  if (key === "color" && value.startsWith("--")) return colours.getPropertyValue(value).trim();
  if (TIMES.includes(key) && ZONED.test(value)) return key === "hovertext" ? hour.format(new Date(value)) : local(value);
  return value;
}

function draw(figure) {
  const written = JSON.parse(figure.querySelector("script").textContent);
  const colours = getComputedStyle(document.documentElement);
  const colour = (name) => colours.getPropertyValue(name).trim();
  const { data, layout } = dressed(written, colours, "");
  const axis = { gridcolor: colour("--line"), zerolinecolor: colour("--line"), linecolor: colour("--line") };
  const narrow = figure.clientWidth < 500;
  const plot = figure.querySelector(".plot");
  if (narrow && layout.xaxis.dtick) layout.xaxis.dtick *= 2;
  return Plotly.react(
    plot,
    data,
    {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12, color: colour("--muted") },
      margin: { t: 8, r: 16, b: layout.xaxis.title ? 46 : 30, l: narrow ? 44 : 56 },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: colour("--ink") } },
      height: plot.clientHeight,
      ...layout,
      xaxis: { ...axis, ...layout.xaxis },
      yaxis: { ...axis, ...layout.yaxis },
    },
    { displayModeBar: false, responsive: true },
  );
}

async function charts() {
  if (typeof Plotly === "undefined") return;
  for (const figure of document.querySelectorAll("figure[data-chart]")) await draw(figure);
  document.documentElement.dataset.drawn = REDRAW.matches ? "dark" : "light";
}

// Ranges are days of the viewer's zone, which the server is told by a cookie; a page that was made without is asked again.
function tell() {
  const zone = encodeURIComponent(Intl.DateTimeFormat().resolvedOptions().timeZone);
  const said = () => document.cookie.split("; ").includes(`gkt_zone=${zone}`);
  if (said()) return;
  document.cookie = `gkt_zone=${zone}; path=/dashboard; max-age=31536000; samesite=strict`;
  if (said() && document.querySelector(".ranges")) location.reload();
}

tell();
for (const each of document.querySelectorAll("select[data-now]")) {
  each.addEventListener("change", () => each.form.requestSubmit());
}
localise();
charts();
REDRAW.addEventListener("change", charts);
