// The page on which pictures are judged, and the keys to try on the page of instructions.
// A picture is shown when it is decoded; time runs from its first paint until the answer is chosen.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  const pressed = (event, letter) => event.key.toLocaleLowerCase() === letter.toLocaleLowerCase();
  // Buttons that wait stay in reach of the keyboard: a disabled one would lose the focus.
  const able = (button, on) => button.setAttribute("aria-disabled", String(!on));
  const plain = (event) => !(event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing);

  if (byId("practice")) practise(byId("practice"));
  if (byId("reading")) judge(JSON.parse(byId("reading").dataset.setup));

  function practise(section) {
    const done = JSON.parse(section.dataset.texts).done;
    const buttons = [...section.querySelectorAll(".answer")];
    const say = section.querySelector(".said");
    const choose = (chosen) => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button === chosen));
      say.textContent = fill(done, { answer: chosen.querySelector("span").textContent });
    };
    for (const button of buttons) button.addEventListener("click", () => choose(button));
    document.addEventListener("keydown", (event) => {
      const chosen = plain(event) && buttons.find((button) => pressed(event, button.dataset.key));
      if (chosen) choose(chosen);
    });
  }

  function judge(setup) {
    const texts = setup.texts;
    const confirms = setup.fidelity || setup.marks > 0;
    const TOO_SOON = 300; // ms from the first paint: a double click on the picture before, no answer to this one
    const root = byId("reading"), stage = byId("stage"), notice = byId("notice");
    const choices = { real: byId("real"), synthetic: byId("synthetic") };
    const scores = [...document.querySelectorAll(".score")];
    const view = zoomable(stage, byId("picture"));
    const marks = setup.marks ? marking(stage, byId("picture"), view, setup, () => open()) : null;
    const pictures = new Map(); // ticket: promise of a decoded <img>
    let shown = null; // {state, painted, hidden, away, answer, elapsed, unseen, fidelity} of the picture on the screen
    let stopped = false, doubtful = false; // the page was out of sight while a picture was on its way

    const say = (text) => { if (notice.textContent !== text) notice.textContent = text; };
    const open = () => shown !== null && !stopped && performance.now() - shown.painted >= TOO_SOON;

    function stop(reason) {
      stopped = true;
      enable(false);
      root.classList.add("waiting");
      say(fill(texts.stopped, { reason }));
    }

    // Ask until there is an answer that is worth reading; a body that is sent again is the same body.
    async function ask(path, options, waiting) {
      for (let turn = 0; ; turn++) {
        let wait = Math.min(8000, 500 * 2 ** turn) * (0.75 + Math.random() / 2);
        try {
          const response = await fetch(path, { cache: "no-store", ...options });
          if (response.status !== 429 && response.status < 500) return response;
          wait = Math.max(wait, 1000 * Number(response.headers.get("Retry-After") || 0));
          say(texts.busy);
        } catch {
          say(waiting);
        }
        await sleep(wait);
      }
    }

    function load(position, ticket) {
      if (!pictures.has(ticket)) pictures.set(ticket, fetchPicture(`/image/${position}/${ticket}`));
      return pictures.get(ticket);
    }

    async function fetchPicture(path) {
      for (;;) {
        const response = await ask(path, {}, texts.again);
        if (!response.ok) return null; // not the picture to judge now: the state will tell
        const image = new Image();
        image.alt = "";
        image.draggable = false;
        try {
          image.src = URL.createObjectURL(await response.blob());
          await image.decode();
          return image;
        } catch {
          say(texts.again);
          await sleep(1000);
        } finally {
          URL.revokeObjectURL(image.src);
        }
      }
    }

    // Show where the reader is: nothing while the picture is on its way, then the picture, then the clock runs.
    async function present(state, message = "") {
      shown = null;
      doubtful = false;
      enable(false);
      if (state.finished) return location.replace("/finished");
      view.clear();
      marks?.clear();
      const late = setTimeout(() => { say(texts.loading); root.classList.add("waiting"); }, 150);
      const image = await load(state.position, state.ticket);
      clearTimeout(late);
      root.classList.remove("waiting");
      if (image === null) return resume();
      byId("progress").textContent = fill(texts.progress, state);
      byId("bar").value = state.position - 1;
      stage.setAttribute("aria-label", fill(texts.picture, state));
      pictures.delete(state.ticket);
      say(message);
      view.show(image);
      const painted = await firstPaint();
      shown = { state, painted, hidden: 0, away: null, answer: null, elapsed: 0, unseen: 0, fidelity: null };
      root.dataset.painted = String(state.position);
      enable(true);
      if (doubtful) resume();
      if (state.next) load(state.position + 1, state.next);
    }

    // The frame that is painted after the first callback is the first with the picture in it.
    const firstPaint = () => new Promise((done) => {
      requestAnimationFrame(() => requestAnimationFrame((time) => done(time)));
    });

    async function resume() {
      const before = shown;
      const response = await ask("/state", { headers: { Accept: "application/json" } }, texts.again);
      const body = await response.json();
      if (!response.ok) return stop(body.reason);
      if (shown !== before) return; // answered meanwhile
      if (shown === null || body.finished || body.position !== shown.state.position) {
        await present(body, shown === null ? "" : texts.stale);
      }
    }

    function enable(on) {
      for (const button of [...Object.values(choices), ...scores]) {
        able(button, on);
        if (confirms && !on) button.setAttribute("aria-pressed", "false");
      }
      marks?.enable(on);
      if (confirms) able(byId("confirm"), on && complete());
    }

    const complete = () => shown !== null && shown.answer !== null && (!setup.fidelity || shown.fidelity !== null);

    function choose(answer) {
      if (!open()) return;
      shown.answer = answer;
      shown.elapsed = performance.now() - shown.painted;
      shown.unseen = shown.hidden;
      if (!confirms) return send();
      for (const [name, button] of Object.entries(choices)) button.setAttribute("aria-pressed", String(name === answer));
      able(byId("confirm"), complete());
    }

    function rate(score) {
      if (!open()) return;
      shown.fidelity = score;
      for (const button of scores) button.setAttribute("aria-pressed", String(Number(button.dataset.score) === score));
      able(byId("confirm"), complete());
    }

    async function send() {
      if (!open() || !complete()) return;
      const seconds = (ms) => Math.round(ms) / 1000;
      const { state, answer, elapsed, unseen, fidelity, painted } = shown;
      const body = JSON.stringify({
        position: state.position, ticket: state.ticket, answer, elapsed: seconds(elapsed), hidden: seconds(unseen),
        confirmed: seconds(performance.now() - painted), fidelity, marks: marks ? marks.list() : [],
      });
      shown = null; // from here on this picture takes no answer
      enable(false);
      const late = setTimeout(() => say(texts.saving), 400);
      const headers = { "Content-Type": "application/json", "X-CSRF-Token": setup.csrf };
      const response = await ask("/answer", { method: "POST", headers, body }, texts.offline);
      clearTimeout(late);
      const answered = await response.json();
      if (response.ok) return present(answered);
      if (response.status === 409) return present(answered.state, texts.stale);
      stop(answered.reason);
    }

    for (const [name, button] of Object.entries(choices)) {
      button.addEventListener("click", (event) => { if (event.detail < 2) choose(name); });
    }
    for (const button of scores) button.addEventListener("click", () => rate(Number(button.dataset.score)));
    if (confirms) byId("confirm").addEventListener("click", send);

    document.addEventListener("keydown", (event) => {
      if (marks?.takes(event)) return event.preventDefault();
      if (view.takes(event)) return event.preventDefault();
      if (!plain(event)) return;
      if (pressed(event, texts.key_real)) choose("real");
      else if (pressed(event, texts.key_synthetic)) choose("synthetic");
      else if (setup.fidelity && /^[0-9]$/.test(event.key)) rate(Number(event.key) || 10);
      else if (event.key === "Enter" && confirms && !event.target.closest("button, a")) send();
      else return;
      event.preventDefault();
    });

    document.addEventListener("visibilitychange", () => {
      if (shown === null) {
        doubtful = true;
      } else if (document.hidden) {
        shown.away = performance.now();
      } else if (shown.away !== null) {
        shown.hidden += performance.now() - shown.away;
        shown.away = null;
        resume(); // the reader may have gone on elsewhere
      }
    });
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

    present(setup.state);
  }

  // A picture that is enlarged by buttons, keys, wheel or two fingers, and moved by dragging or arrows.
  // `scale` is in pixels of the screen per pixel of the picture, so 1 shows it as it is.
  function zoomable(stage, frame) {
    const STEP = 1.25, SLIP = 6;
    let image = null, scale = 1, x = 0, y = 0, mode = "first";
    const pointers = new Map();
    let dragged = 0, spread = 0;
    const pixel = () => 1 / (window.devicePixelRatio || 1);
    const size = () => [stage.clientWidth, stage.clientHeight];
    const fitting = () => {
      const [width, height] = size();
      return Math.min(width / image.naturalWidth, height / image.naturalHeight) / pixel();
    };

    // Every pixel of the picture becomes a whole number of the screen's, if the picture fits the stage at all.
    const first = (fit) => (fit < 1 ? fit : Math.floor(fit));

    function apply() {
      if (!image) return;
      const [width, height] = size(), step = pixel();
      const wide = image.naturalWidth * scale * step, tall = image.naturalHeight * scale * step;
      const reach = (inner, outer) => Math.max(0, (inner - outer) / 2);
      x = Math.max(-reach(wide, width), Math.min(reach(wide, width), x));
      y = Math.max(-reach(tall, height), Math.min(reach(tall, height), y));
      const origin = stage.getBoundingClientRect();
      const whole = (inner, outer) => Math.round((inner + outer) / step) * step - outer; // pixels of the screen
      frame.style.width = `${wide}px`;
      frame.style.height = `${tall}px`;
      frame.style.transform = `translate(${whole((width - wide) / 2 + x, origin.left)}px, `
        + `${whole((height - tall) / 2 + y, origin.top)}px)`;
      stage.classList.toggle("movable", wide > width + 1 || tall > height + 1);
      byId("scale").textContent = `${Math.round(scale * 100)}%`;
    }

    function settle() {
      if (!image) return;
      if (mode === "first") scale = first(fitting());
      if (mode === "fit") scale = fitting();
      if (mode === "actual") scale = 1;
      apply();
    }

    // Change the scale, and keep the place (left, top) of the stage where it is in the picture.
    function zoom(factor, left = size()[0] / 2, top = size()[1] / 2) {
      if (!image) return;
      const [least, largest] = [Math.min(1, fitting()) / 2, Math.max(16, 4 * fitting())];
      const next = Math.max(least, Math.min(largest, scale * factor));
      const [width, height] = size();
      x = (left - width / 2) * (1 - next / scale) + x * (next / scale);
      y = (top - height / 2) * (1 - next / scale) + y * (next / scale);
      scale = next;
      mode = "free";
      apply();
    }

    function become(wanted) {
      mode = wanted;
      x = y = 0;
      settle();
    }

    const within = (event) => {
      const box = stage.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 30 : 1;
      zoom(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) / 400), ...within(event));
    }, { passive: false });
    stage.addEventListener("pointerdown", (event) => {
      if (event.target.closest("button, .words, a") || (event.pointerType === "mouse" && event.button !== 0)) return;
      stage.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, within(event));
      if (pointers.size === 1) dragged = 0;
      spread = 0;
    });
    stage.addEventListener("pointermove", (event) => {
      if (!pointers.has(event.pointerId)) return;
      const before = pointers.get(event.pointerId), now = within(event);
      pointers.set(event.pointerId, now);
      if (pointers.size === 1) {
        dragged += Math.hypot(now[0] - before[0], now[1] - before[1]);
        if (dragged < SLIP) return;
        x += now[0] - before[0];
        y += now[1] - before[1];
        stage.classList.add("moving");
        apply();
      } else if (pointers.size === 2) {
        dragged = SLIP;
        const [one, other] = [...pointers.values()];
        const apart = Math.hypot(one[0] - other[0], one[1] - other[1]);
        if (spread > 0) zoom(apart / spread, (one[0] + other[0]) / 2, (one[1] + other[1]) / 2);
        spread = apart;
      }
    });
    const release = (event) => {
      if (!pointers.delete(event.pointerId)) return;
      spread = 0;
      stage.classList.remove("moving");
      if (event.type === "pointerup" && pointers.size === 0 && dragged < SLIP) {
        stage.dispatchEvent(new CustomEvent("tap", { detail: within(event) }));
      }
    };
    stage.addEventListener("pointerup", release);
    stage.addEventListener("pointercancel", release);
    byId("larger").addEventListener("click", () => zoom(STEP));
    byId("smaller").addEventListener("click", () => zoom(1 / STEP));
    byId("fit").addEventListener("click", () => become("fit"));
    byId("actual").addEventListener("click", () => become("actual"));
    addEventListener("resize", settle);

    return {
      show(next) {
        image = next;
        x = y = 0; // where the last picture was moved says nothing about this one
        settle();
        frame.replaceChildren(image);
      },
      clear() {
        image = null;
        frame.replaceChildren();
      },
      // The place of the stage as parts of the picture, or null beside it.
      place([left, top]) {
        const box = frame.getBoundingClientRect(), outer = stage.getBoundingClientRect();
        const [across, down] = [(left + outer.left - box.left) / box.width, (top + outer.top - box.top) / box.height];
        return image && across >= 0 && across <= 1 && down >= 0 && down <= 1 ? { x: across, y: down } : null;
      },
      takes(event) {
        if (event.ctrlKey || event.metaKey || event.altKey) return false;
        const far = 40, moves = { ArrowLeft: [far, 0], ArrowRight: [-far, 0], ArrowUp: [0, far], ArrowDown: [0, -far] };
        if (event.key === "+" || event.key === "=") zoom(STEP);
        else if (event.key === "-") zoom(1 / STEP);
        else if (plain(event) && pressed(event, "F")) become("fit");
        else if (plain(event) && pressed(event, "P")) become("actual");
        else if (moves[event.key]) {
          x += moves[event.key][0];
          y += moves[event.key][1];
          apply();
        } else return false;
        return true;
      },
    };
  }

  // Marks on what looks wrong, each with a word: put by a click, or by a cross that the arrows move.
  function marking(stage, frame, view, setup, open) {
    const words = byId("words"), cross = byId("cross"), button = byId("mark"), texts = setup.texts;
    let list = [], at = null, aim = null;

    function draw() {
      for (const old of frame.querySelectorAll(".mark")) old.remove();
      list.forEach((mark, number) => {
        const dot = document.createElement("button");
        dot.type = "button";
        dot.className = mark.x > 0.6 ? "mark left" : "mark";
        dot.style.left = `${100 * mark.x}%`;
        dot.style.top = `${100 * mark.y}%`;
        dot.setAttribute("aria-label", fill(texts.mark_remove, { word: setup.words[mark.word] }));
        const name = document.createElement("span");
        name.textContent = setup.words[mark.word];
        dot.append(name);
        dot.addEventListener("click", () => { list.splice(number, 1); draw(); button.focus(); });
        frame.append(dot);
      });
      able(button, list.length < setup.marks);
    }

    function close() {
      at = aim = null;
      words.hidden = cross.hidden = true;
    }

    function point(place) {
      if (!place || !open() || list.length >= setup.marks) return;
      at = place;
      words.hidden = false;
      words.querySelector("button").focus();
    }

    function put(word) {
      list.push({ x: Math.round(at.x * 1e4) / 1e4, y: Math.round(at.y * 1e4) / 1e4, word });
      close();
      draw();
      stage.focus({ preventScroll: true });
    }

    function move(left, top) {
      aim = [Math.max(0, Math.min(stage.clientWidth, left)), Math.max(0, Math.min(stage.clientHeight, top))];
      cross.style.left = `${aim[0]}px`;
      cross.style.top = `${aim[1]}px`;
      cross.hidden = false;
    }

    function begin() {
      if (!open() || list.length >= setup.marks) return;
      close();
      move(stage.clientWidth / 2, stage.clientHeight / 2);
      stage.focus({ preventScroll: true });
    }

    stage.classList.add("marking");
    stage.addEventListener("tap", (event) => {
      if (!words.hidden) return close();
      const place = view.place(event.detail);
      if (place && open()) move(...event.detail);
      point(place);
    });
    button.addEventListener("click", begin);
    byId("unmark").addEventListener("click", () => { close(); stage.focus({ preventScroll: true }); });
    for (const each of words.querySelectorAll("[data-word]")) each.addEventListener("click", () => put(each.dataset.word));

    return {
      list: () => list,
      clear() { list = []; close(); draw(); },
      enable(on) { able(button, on); if (!on) close(); },
      takes(event) {
        if (event.ctrlKey || event.metaKey || event.altKey) return false;
        if (event.key === "Escape" && (aim || at)) close();
        else if (!words.hidden) return !["Tab", "Enter", " ", "Shift"].includes(event.key); // a word comes first
        else if (aim && event.key.startsWith("Arrow")) {
          const step = event.shiftKey ? 2 : 16;
          const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
          move(aim[0] + by[0], aim[1] + by[1]);
        } else if (aim && event.key === "Enter") point(view.place(aim));
        else if (plain(event) && pressed(event, texts.key_mark)) begin();
        else return false;
        return true;
      },
    };
  }
})();
