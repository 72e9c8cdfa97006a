// The conversations of a report: filtered, a page at a time, written as text and never as markup.
"use strict";

const PAGE = 20;
const held = JSON.parse(document.getElementById("answers").textContent);
const WORDS = {
  lost: "teacher right, this wrong",
  won: "teacher wrong, this right",
  right: "both right",
  wrong: "both wrong",
  unscored: "unscored",
  alone: "not asked of the teacher",
};
const at = (id) => document.getElementById(id);

function element(tag, { text, ...properties } = {}, children = []) {
  const made = Object.assign(document.createElement(tag), properties);
  if (text !== undefined) made.textContent = text;
  made.append(...children);
  return made;
}

const known = (value, unit = "") => (value === null ? "unknown" : `${value}${unit}`);
const money = (nano) => (nano === null ? "unknown cost" : `$${(nano / 1e9).toPrecision(3)}`);

function verdict(score, found) {
  return `${score === null ? "unscored" : `score ${score}`}; ${found === null ? "no final answer" : `answer ${found}`}`;
}

function spoken(name, line, text, guided = 0) {
  const said = element("pre", { tabIndex: 0 });
  if (guided) said.append(element("mark", { text: text.slice(0, guided), title: "the teacher’s words" }));
  said.append(text.slice(guided));
  return element("div", {}, [element("p", { className: "by", text: `${name}: ${line}` }), said]);
}

function talk(row) {
  const [group, arm] = held.cells[row.cell];
  const sample = row.sample ? `, sample ${row.sample}` : "";
  const tag = element("span", { className: `tag outcome-${row.outcome}`, text: WORDS[row.outcome] });
  const title = element("h3", { text: `${group} · ${arm} · ${row.item}${sample}` });
  const pair = [spoken("this", verdict(row.score, row.found), row.answer, row.guided)];
  if (row.teacher) {
    pair.push(spoken("the teacher alone", verdict(row.teacher.score, row.teacher.found), held.texts[row.teacher.text][1]));
  }
  const seconds = row.seconds === null ? "time unknown" : `${row.seconds.toPrecision(3)} s`;
  const tokens = `${known(row.tokens[0])} tokens in, ${known(row.tokens[1])} out`;
  const facts = [`reference ${known(row.reference)}`, tokens, money(row.cost), seconds];
  for (const extra of [row.unscored, row.error, row.why]) if (extra) facts.push(extra);
  const asked = row.prompt.map((place) => spoken(held.texts[place][0], "", held.texts[place][1]));
  if (row.hint) asked.push(spoken("the teacher’s hint", "", row.hint));
  return element("article", { className: "card talk" }, [
    element("header", {}, [title, tag]),
    element("div", { className: "pair" }, pair),
    element("p", { className: "sub", text: facts.join(" · ") }),
    element("details", {}, [element("summary", { text: "What was asked" }), ...asked]),
  ]);
}

function wanted() {
  const arm = at("arm").value, outcomes = at("outcome").value.split(" "), words = at("words").value.trim().toLowerCase();
  const has = (text) => text.toLowerCase().includes(words);
  return held.rows.filter(
    (row) =>
      (arm === "" || row.cell === Number(arm)) &&
      (outcomes[0] === "" || outcomes.includes(row.outcome)) &&
      (words === "" || has(row.item) || has(row.answer) || row.prompt.some((place) => has(held.texts[place][1]))),
  );
}

let found = [], drawn = 0;

function more() {
  const next = found.slice(drawn, drawn + PAGE);
  at("talks").append(...next.map(talk));
  drawn += next.length;
  at("counted").textContent = `${found.length.toLocaleString("en")} answers found, ${drawn.toLocaleString("en")} shown`;
  at("more").hidden = drawn >= found.length;
}

function filter() {
  found = wanted();
  drawn = 0;
  at("talks").replaceChildren();
  more();
}

function begin() {
  const groups = new Map();
  held.cells.forEach(([group, arm], place) => {
    if (!groups.has(group)) groups.set(group, element("optgroup", { label: group }));
    groups.get(group).append(element("option", { value: String(place), text: arm }));
  });
  at("arm").append(...groups.values());
  at("filters").addEventListener("input", filter);
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("more").addEventListener("click", () => {
    const first = drawn;
    more();
    at("talks").children[first]?.querySelector("pre")?.focus();
  });
  filter();
}

for (const plot of document.querySelectorAll(".plot[data-height]")) plot.style.height = `${plot.dataset.height}px`;
begin();
