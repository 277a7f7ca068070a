"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const page = byId("review");
  const sections = [...document.querySelectorAll("section[data-weights]")];
  const reader = byId("reader"), day = byId("date"), text = byId("text"), said = byId("said");
  let unsaved = false;

  const ticked = (section) =>
    [...section.querySelectorAll("input[data-number]")].filter((box) => box.checked)
      .map((box) => Number(box.dataset.number));
  const answer = (section) => section.querySelector("input[data-answer]:checked");
  const plain = (words) => words.replace(/\r\n?/g, "\n").replace(/[^\P{C}\n\t]|[\u2028\u2029]/gu, " ");

  function count(section) {
    section.querySelector("output").value = String(ticked(section).length);
  }

  function tell(words, field) {
    said.textContent = words;
    if (field) field.focus();
    return null;
  }

  function gather() {
    if (!plain(reader.value).trim()) return tell("Please write your name or initials.", reader);
    if (!day.value) return tell("Please write the date.", day);
    const judged = [];
    for (const section of sections) {
      const chosen = answer(section), wrong = ticked(section);
      const remark = plain(section.querySelector("textarea").value).trim();
      if (!chosen) {
        if (wrong.length || remark) {
          return tell(`${section.dataset.name}: please choose accept or reject.`,
            section.querySelector("input[data-answer]"));
        }
        continue;
      }
      judged.push({
        name: section.dataset.name, weights: section.dataset.weights, images: Number(page.dataset.images),
        wrong: wrong, remark: remark, verdict: chosen.value,
      });
    }
    if (!judged.length) {
      return tell("Please accept or reject at least one snapshot.",
        sections[0] && sections[0].querySelector("input[data-answer]"));
    }
    const verdict = {
      schema: Number(page.dataset.schema), run: page.dataset.run, reader: plain(reader.value).trim(),
      date: day.value, seed: Number(page.dataset.seed), snapshots: judged,
    };
    text.value = JSON.stringify(verdict, null, 2) + "\n";
    const open = sections.length - judged.length;
    said.textContent = `${judged.length} judged` + (open ? `, ${open} left out` : "") + ".";
    return text.value;
  }

  byId("download").addEventListener("click", () => {
    const made = gather();
    if (!made) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([made], {type: "application/json"}));
    link.download = "verdict.json";
    document.body.append(link);
    link.click();
    link.remove();
    unsaved = false;
  });
  byId("copy").addEventListener("click", () => {
    if (!gather()) return;
    text.focus();
    text.select();
    let done = false;
    try { done = document.execCommand("copy"); } catch { done = false; }
    said.textContent += done ? " Copied." : " Press Ctrl+C to copy.";
    unsaved = unsaved && !done;
  });
  document.addEventListener("input", (event) => {
    if (event.target.dataset.view !== undefined || event.target === text) return;
    unsaved = true;
    const section = event.target.closest("section[data-weights]");
    if (section) count(section);
  });
  window.addEventListener("beforeunload", (event) => {
    if (unsaved) event.preventDefault();
  });

  const now = new Date(), two = (number) => String(number).padStart(2, "0");
  if (!day.value) day.value = `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
  sections.forEach(count);
  document.querySelectorAll("[data-script]").forEach((part) => { part.hidden = false; });
})();
