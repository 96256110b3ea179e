"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  const number = (value) => value.toLocaleString("en");

  /* An element; strings become text, never markup. */
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  };

  /* Theme: auto follows the system. Kept where the browser allows it. */
  const themes = ["auto", "light", "dark"];
  const memory = (action) => { try { return action(window.localStorage); } catch { return null; } };
  const button = byId("theme");
  const setTheme = (theme) => {
    if (theme === "auto") root.removeAttribute("data-theme"); else root.dataset.theme = theme;
    button.textContent = `Theme: ${theme}`;
  };
  const stored = memory((storage) => storage.getItem("trelm-theme"));
  let theme = themes.includes(stored) ? stored : "auto";
  setTheme(theme);
  button.addEventListener("click", () => {
    theme = themes[(themes.indexOf(theme) + 1) % themes.length];
    setTheme(theme);
    memory((storage) => storage.setItem("trelm-theme", theme));
  });

  /* Charts: the mark nearest to the pointer says its values. */
  const tip = byId("tip");
  const marksOf = new Map();
  let hot = null;
  const forget = () => { if (hot) hot.classList.remove("hot"); hot = null; tip.hidden = true; };
  const distance = (box, x, y, byX) => {
    const dx = Math.max(box.x - x, 0, x - box.x - box.width);
    const dy = byX ? 0 : Math.max(box.y - y, 0, y - box.y - box.height);
    return dx * dx + dy * dy;
  };
  const show = (svg, event) => {
    if (!marksOf.has(svg)) marksOf.set(svg, [...svg.querySelectorAll(".mark")].map((mark) => [mark, mark.getBBox()]));
    const frame = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / frame.width;
    const x = (event.clientX - frame.left) * scale;
    const y = (event.clientY - frame.top) * scale;
    let best = null, least = 1600;
    for (const [mark, box] of marksOf.get(svg)) {
      const away = distance(box, x, y, svg.dataset.by === "x");
      if (away < least) { least = away; best = mark; }
    }
    forget();
    if (!best) return;
    hot = best;
    hot.classList.add("hot");
    tip.textContent = hot.dataset.tip;
    tip.hidden = false;
    const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
    const below = event.clientY + 18 + tip.offsetHeight < window.innerHeight;
    tip.style.left = `${Math.max(left, 8)}px`;
    tip.style.top = `${below ? event.clientY + 18 : event.clientY - tip.offsetHeight - 12}px`;
  };
  for (const svg of document.querySelectorAll(".chart")) {
    svg.addEventListener("pointermove", (event) => show(svg, event));
    svg.addEventListener("pointerdown", (event) => show(svg, event));
    svg.addEventListener("pointerleave", forget);
  }
  window.addEventListener("scroll", forget, { passive: true });

  /* Navigation: mark the section that is being read. */
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id).setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-20% 0px -70% 0px" });
  for (const id of links.keys()) watcher.observe(byId(id));

  /* Tables as CSV: numbers without thousands separators; a text that a spreadsheet would compute is quoted by '. */
  const textOf = (cell) => {
    const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT), pieces = [];
    while (walker.nextNode()) pieces.push(walker.currentNode.data.trim());
    return pieces.filter((piece) => piece).join(" ");
  };
  const csvCell = (cell) => {
    const text = textOf(cell);
    if (cell.tagName === "TD" && cell.classList.contains("n")) return text.replace(/,(?=\d{3})/g, "").replace(/−/g, "-").replace(/^–$/, "");
    const safe = /^[=+\-@\t]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
  };
  for (const box of document.querySelectorAll(".scroll:has(table)")) {
    const name = textOf(box.querySelector("caption"));
    const save = make("button", { type: "button", class: "button csv", "aria-label": `Download as CSV: ${name}` }, "CSV");
    save.addEventListener("click", () => {
      const lines = [...box.querySelectorAll("tr")].map((row) => [...row.cells].map(csvCell).join(","));
      /* The mark in front tells spreadsheets that it is UTF-8. */
      const address = URL.createObjectURL(new Blob([`\ufeff${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
      make("a", { href: address, download: `${name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "")}.csv` }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    });
    box.after(save);
  }

  /* Search */
  const data = JSON.parse(byId("entities-data").textContent);
  const query = byId("query"), results = byId("results"), found = byId("found"), card = byId("card");
  const bands = ["head", "torso", "tail"];
  const most = 50;
  const letters = { ø: "o", ł: "l", đ: "d", ð: "d", ħ: "h", ı: "i", ß: "ss", æ: "ae", œ: "oe", þ: "th" };
  const fold = (text) =>
    text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().replace(/[øłđðħıßæœþ]/g, (letter) => letters[letter]);
  /* Items from FIRST_OWN on are a user's own (schemas/ids.py): Wikidata has no page about them. */
  const FIRST_OWN = 4200000000;
  const idOf = (qid) => (qid >= FIRST_OWN ? `U${qid - FIRST_OWN}` : `Q${qid}`);
  const nameOf = (place) => data.label[place] || idOf(data.qid[place]);
  let keys = null;
  const fill = () => {
    keys = data.label.map((label, place) => [
      fold(label), fold(data.surfaces[place].filter((_, at) => at % 2 === 0).join("\n")), `q${data.qid[place]}`,
    ]);
  };
  const atWord = (text, wanted) => {
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1))
      if (at === 0 || !/[\p{L}\p{N}]/u.test(text[at - 1])) return true;
    return false;
  };
  /* 0 is the best; null is no match. */
  const quality = ([label, surfaces, id], wanted, words) => {
    if (id === wanted || id.slice(1) === wanted || label === wanted) return 0;
    if (label.startsWith(wanted)) return 1;
    if (label.includes(wanted)) return atWord(label, wanted) ? 2 : 3;
    if (surfaces.includes(wanted)) return 4;
    if (words.every((word) => label.includes(word) || surfaces.includes(word))) return 5;
    return id.startsWith(wanted) && wanted.length > 1 ? 6 : null;
  };
  const search = (text) => {
    const wanted = fold(text.trim());
    if (!wanted) return [];
    if (!keys) fill();
    const words = wanted.split(/\s+/);
    const groups = [[], [], [], [], [], [], []];
    keys.forEach((key, place) => {
      const match = quality(key, wanted, words);
      if (match !== null) groups[match].push(place);
    });
    return groups.flat();
  };

  let active = -1;
  const close = () => {
    results.hidden = true;
    active = -1;
    query.setAttribute("aria-expanded", "false");
    query.removeAttribute("aria-activedescendant");
  };
  const option = (place, at) => {
    const text = data.description[place];
    const item = make(
      "li", { role: "option", id: `option-${at}`, "aria-selected": "false", "data-place": place },
      make("span", { class: `chip ${bands[data.band[place]]}` }, bands[data.band[place]]),
      make("span", { class: "what" }, make("bdi", {}, nameOf(place)), text ? make("span", {}, " · ", make("bdi", {}, text)) : null),
      make("span", { class: "count" }, `${number(data.mentions[place])}×`),
    );
    item.addEventListener("click", () => open(place));
    return item;
  };
  const update = () => {
    const places = search(query.value);
    results.replaceChildren(...places.slice(0, most).map(option));
    close();
    found.textContent = !query.value.trim() ? ""
      : places.length > most ? `${number(places.length)} entities match, the first ${most} are listed`
      : `${number(places.length)} ${places.length === 1 ? "entity matches" : "entities match"}`;
    if (places.length) {
      results.hidden = false;
      query.setAttribute("aria-expanded", "true");
    }
  };
  const choose = (at) => {
    const options = results.children;
    if (active >= 0) options[active].setAttribute("aria-selected", "false");
    active = (at + options.length) % options.length;
    options[active].setAttribute("aria-selected", "true");
    options[active].scrollIntoView({ block: "nearest" });
    query.setAttribute("aria-activedescendant", options[active].id);
  };
  query.addEventListener("input", update);
  query.addEventListener("keydown", (event) => {
    const listed = results.hidden ? 0 : results.children.length;
    if (event.key === "Escape") { query.value = ""; update(); event.preventDefault(); return; }
    if (!listed && event.key === "ArrowDown" && query.value) { update(); return; }
    if (!listed) return;
    if (event.key === "ArrowDown") { choose(active + 1); event.preventDefault(); }
    if (event.key === "ArrowUp") { choose(active < 0 ? -1 : active - 1); event.preventDefault(); }
    if (event.key === "Enter") { open(Number(results.children[Math.max(active, 0)].dataset.place)); event.preventDefault(); }
  });

  /* Card of an entity */
  const pairs = (list, size) => Array.from({ length: list.length / size }, (_, at) => list.slice(at * size, (at + 1) * size));
  const go = (place) => {
    const link = make("button", { type: "button" }, make("bdi", {}, nameOf(place)));
    link.addEventListener("click", () => { open(place); card.querySelector("h3").focus(); });
    return link;
  };
  const listOf = (title, items) => items.length ? make("div", {}, make("h4", {}, title), make("ul", {}, ...items)) : null;
  const factOf = (place) => ([property, isSubject, other, documents]) => {
    const said = ` (${number(documents)} ${documents === 1 ? "document" : "documents"})`;
    const name = data.properties[property];
    if (isSubject) return make("li", {}, `${name} → `, go(other), said);
    return make("li", {}, go(other), ` — ${name} → `, make("bdi", {}, nameOf(place)), said);
  };
  const open = (place) => {
    const band = bands[data.band[place]];
    const values = [
      ["Rank", number(place + 1)], ["Mentions", number(data.mentions[place])], ["Documents", number(data.documents[place])],
      ["Sentences", number(data.sentences[place])], ["Expected mentions", number(data.expected[place])],
      ["Mean SI", data.si[place] === null ? "–" : data.si[place].toFixed(4)],
    ];
    const lists = [
      listOf("Written as", pairs(data.surfaces[place], 2).map(([text, count]) => make("li", {}, make("bdi", {}, text), ` ${number(count)}×`))),
      listOf("In a sentence with", pairs(data.near[place], 2).map(([other, count]) => make("li", {}, go(other), ` ${number(count)}×`))),
      listOf("Facts in the text", pairs(data.facts[place], 4).map(factOf(place))),
    ];
    const quotes = listOf("Sentences", pairs(data.quotes[place], 3).map(([before, mention, after]) =>
      make("li", {}, make("q", {}, before, make("b", {}, mention), after))));
    const id = idOf(data.qid[place]);
    const source = data.qid[place] >= FIRST_OWN ? `${id}, added to this run`
      : make("a", { href: `https://www.wikidata.org/wiki/${id}`, rel: "noopener noreferrer" }, `${id} on Wikidata`);
    card.replaceChildren(make(
      "article", { class: `card ${band}`, "data-qid": id },
      make("h3", { tabindex: "-1" }, make("bdi", {}, nameOf(place))),
      make("p", { class: "meta" }, make("span", { class: `chip ${band}` }, band), " ", make("bdi", {}, data.description[place]), " ", source),
      make("dl", {}, ...values.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))),
      make("div", { class: "facts" }, ...lists),
      quotes,
    ));
    close();
    query.value = nameOf(place);
    found.textContent = "";
  };

  /* An address that ends in #Q42 opens that card. */
  const fromAddress = () => {
    const wanted = /^#([QU])(\d+)$/.exec(window.location.hash);
    const place = wanted ? data.qid.indexOf(Number(wanted[2]) + (wanted[1] === "U" ? FIRST_OWN : 0)) : -1;
    if (place >= 0) { open(place); byId("find").scrollIntoView(); }
  };
  window.addEventListener("hashchange", fromAddress);
  fromAddress();
})();
