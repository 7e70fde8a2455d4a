// Shows completions. Whatever comes from a data set or a model enters the page as text (textContent) or as a formula that
// Temml built without trust, never as markup. Only what is on the screen is in the document.
'use strict';
(() => {
  const data = JSON.parse(document.getElementById('completion-data').textContent);
  const place = document.getElementById('browser');
  const STEP = 40, MOST_FORMULAS = 400, LONGEST_FORMULA = 3000;
  const MODEL = 0, BENCH = 1, QUESTION = 2, SAMPLE = 3, SEED = 4, EXTRACTED = 5, CORRECT = 6, STATUS = 7, DETAIL = 8,
    TOKENS = 9, FINISH = 10, FORMAT = 11, TEXT = 12, PARSED = 13;
  const marked = data.marked.map(questions => new Set(questions));
  const wanted = {model: -1, bench: -1, kind: 'all', level: '', text: '', question: null, math: true};
  let found = [], shown = 0;

  const question = row => data.benchmarks[row[BENCH]].questions[row[QUESTION]];
  const KINDS = {
    all: ['all', () => true],
    right: ['right', row => row[CORRECT]],
    wrong: ['wrong', row => !row[CORRECT] && row[STATUS] === 'ok'],
    truncated: ['truncated', row => row[FINISH] === 'length'],
    silent: ['no answer', row => !row[EXTRACTED] && row[STATUS] === 'ok'],
    unparseable: ['unparseable', row => row[PARSED] === false && row[STATUS] === 'ok'],
    failed: ['no verdict', row => row[STATUS] !== 'ok'],
    malformed: ['not in the asked-for form', row => row[FORMAT] === false || row[FORMAT] === 0],
    marked: ['questions that flipped', row => marked[row[BENCH]].has(row[QUESTION])],
  };

  // control codes, marks that turn the writing direction and halves of characters
  const printable = text => String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, c => c === '\n' || c === '\t' ? c : '\uFFFD');

  function element(kind, name, text) {
    const made = document.createElement(kind);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  }

  // ---- formulas ----
  // $$..$$, \[..\], \(..\), $..$, environments of displayed formulas, and a \boxed{..} outside of all
  const DELIMITED = new RegExp([
    /\$\$([^]+?)\$\$/, /\\\[([^]+?)\\\]/, /\\\(([^]+?)\\\)/,
    /(?<![\\$])\$(?![\s$])((?:[^$\n\\]|\\[^\n]|\n(?!\s*\n))*?[^\s$\\])\$(?!\d)/,
    /(\\begin\{((?:align|equation|gather|multline|eqnarray)\*?)\}[^]+?\\end\{\6\})/, /(\\boxed\s*\{)/,
  ].map(part => part.source).join('|'), 'g');

  function balanced(text, open) {
    let depth = 0;
    for (let i = open; i < text.length && i < open + LONGEST_FORMULA; i++) {
      if (text[i] === '\\') i++;
      else if (text[i] === '{') depth++;
      else if (text[i] === '}' && --depth === 0) return i + 1;
    }
    return -1;
  }

  function formula(tex, block) {
    if (tex.length > LONGEST_FORMULA) return null;
    const made = element('span', block ? 'formula block' : 'formula');
    try {
      temml.render(tex, made, {displayMode: block, throwOnError: true, trust: false, maxExpand: 500, maxSize: [20, 20]});
    } catch {
      return null; // no formula that it knows: its source is shown
    }
    made.title = tex;
    return made;
  }

  function fill(into, text) {
    text = printable(text);
    if (!wanted.math) {
      into.classList.add('source');
      into.textContent = text;
      return;
    }
    let done = 0, count = 0, match;
    DELIMITED.lastIndex = 0;
    while (count < MOST_FORMULAS && (match = DELIMITED.exec(text))) {
      let end = DELIMITED.lastIndex, tex = match[1] ?? match[2] ?? match[3] ?? match[4] ?? match[5];
      const block = match[1] !== undefined || match[2] !== undefined || match[5] !== undefined;
      if (match[7] !== undefined) {
        end = balanced(text, end - 1);
        if (end < 0) continue;
        tex = text.slice(match.index, end);
      }
      const made = formula(tex, block);
      if (!made) continue;
      const before = text.slice(done, match.index);
      into.append(block ? before.trimEnd() : before, made);
      done = end;
      if (block) while (/\s/.test(text[done] ?? '')) done++; // a displayed formula is a line of its own already
      DELIMITED.lastIndex = done;
      count++;
    }
    into.append(text.slice(done));
  }

  function answer(into, text) {
    if (text === null) {
      into.append(element('span', 'soft', 'none'));
      return;
    }
    const made = wanted.math && /[\\^_]/.test(text) ? formula(printable(text).replace(/^\$+|\$+$/g, ''), false) : null;
    into.append(made ?? printable(text));
  }

  // ---- one completion ----
  function badge(row) {
    if (row[CORRECT]) return ['right', row[FINISH] === 'length' ? 'right, truncated' : 'right'];
    if (row[FINISH] === 'refused') return ['other', 'refused'];
    if (row[STATUS] !== 'ok') return ['other', row[STATUS]];
    return row[FINISH] === 'length' ? ['cut', 'truncated'] : ['wrong', 'wrong'];
  }

  function part(title, text, into) {
    into.append(element('h4', '', title));
    const made = element('div', 'text');
    fill(made, text);
    into.append(made);
  }

  function open(row, into) {
    const [id, problem, gold, level, source] = question(row);
    part('Problem', problem, into);
    part('Completion', row[TEXT], into);
    const trio = element('div', 'trio');
    for (const [title, text] of [['Extracted answer', row[EXTRACTED]], ['Gold', gold], ['Verdict', null]]) {
      const one = element('div');
      one.append(element('h4', '', title));
      if (title === 'Verdict') {
        const [kind, words] = badge(row);
        one.append(element('span', 'badge ' + kind, words));
        if (row[DETAIL]) one.append(element('div', 'small soft', printable(row[DETAIL])));
      } else answer(one, text);
      trio.append(one);
    }
    into.append(trio);
    const meta = [data.models[row[MODEL]], data.benchmarks[row[BENCH]].name, 'question ' + id, 'sample ' + row[SAMPLE],
      'seed ' + row[SEED], row[TOKENS] + ' tokens', 'ended by ' + row[FINISH]];
    if (level !== null) meta.push('level ' + level);
    if (source) meta.push('source ' + source);
    if (row[FORMAT] !== null) meta.push(row[FORMAT] ? 'in the asked-for form' : 'not in the asked-for form');
    if (row[PARSED] === false) meta.push('the answer cannot be read');
    into.append(element('p', 'meta', printable(meta.join(' \u00b7 '))));
  }

  function entry(row) {
    const made = element('details', 'entry'), head = element('summary'), [kind, words] = badge(row);
    head.append(element('span', 'badge ' + kind, words));
    const bench = data.benchmarks[row[BENCH]].name, id = question(row)[0];
    const where = data.benchmarks.length > 1 && !id.startsWith(bench) ? `${bench} ${id}` : id;
    head.append(element('span', 'where', printable(`${where} #${row[SAMPLE]}`)));
    const said = row[EXTRACTED] ?? (row[STATUS] === 'ok' ? 'no answer' : 'no verdict');
    head.append(element('code', 'answers', printable(said + (row[CORRECT] ? '' : '   (gold: ' + question(row)[2] + ')'))));
    head.append(element('span', 'soft small', (data.models.length > 1 ? printable(data.models[row[MODEL]]) + ', ' : '') + row[TOKENS] + ' tokens'));
    made.append(head);
    made.addEventListener('toggle', () => {
      if (!made.open || made.querySelector('.body')) return;
      const body = element('div', 'body');
      open(row, body);
      made.append(body);
    });
    return made;
  }

  // ---- the list ----
  function fits(row) {
    if (wanted.model >= 0 && row[MODEL] !== wanted.model) return false;
    if (wanted.bench >= 0 && row[BENCH] !== wanted.bench) return false;
    const only = wanted.question;
    if (only && (row[BENCH] !== only.bench || row[QUESTION] !== only.question)) return false;
    if (only && only.sample >= 0 && row[SAMPLE] !== only.sample) return false;
    if (!KINDS[wanted.kind][1](row)) return false;
    const [id, problem, gold, level] = question(row);
    if (wanted.level !== '' && String(level) !== wanted.level) return false;
    if (!wanted.text) return true;
    return [row[TEXT], id, problem, gold, row[EXTRACTED] ?? ''].some(text => text.toLowerCase().includes(wanted.text));
  }

  const count = element('p', 'count soft small'), list = element('div'), more = element('button', '', '');
  function grow() {
    for (const row of found.slice(shown, shown + STEP)) list.append(entry(row));
    shown = Math.min(shown + STEP, found.length);
    more.hidden = shown === found.length;
    more.textContent = `Show ${Math.min(STEP, found.length - shown)} more`;
  }
  function update() {
    found = data.rows.filter(fits);
    shown = 0;
    list.textContent = '';
    count.textContent = `${found.length.toLocaleString('en')} of ${data.rows.length.toLocaleString('en')} completions`;
    chip.hidden = !wanted.question;
    if (wanted.question) {
      const {bench, question: n, sample} = wanted.question;
      chip.textContent = printable(`question ${data.benchmarks[bench].questions[n][0]}${sample >= 0 ? ' #' + sample : ''}  \u00d7`);
    }
    grow();
  }

  // ---- the bar ----
  const bar = element('div', 'bar'), chip = element('button', '', '');
  function choice(title, options, set) {
    if (options.length < 2) return null;
    const label = element('label', '', title), made = element('select');
    for (const [value, text] of options) {
      const option = element('option', '', printable(text));
      option.value = value;
      made.append(option);
    }
    made.addEventListener('change', () => { set(made.value); update(); });
    label.append(made);
    bar.append(label);
    return made;
  }
  const numbered = names => names.length > 1 ? [[-1, 'all'], ...names.map((name, n) => [n, name])] : [];
  const models = choice('model', numbered(data.models), value => { wanted.model = Number(value); });
  const benches = choice('benchmark', numbered(data.benchmarks.map(b => b.name)), value => { wanted.bench = Number(value); });
  const kinds = Object.keys(KINDS).filter(kind => kind === 'all' || data.rows.some(KINDS[kind][1]));
  const counted = kind => kind === 'all' ? 'all' : `${KINDS[kind][0]} (${data.rows.filter(KINDS[kind][1]).length.toLocaleString('en')})`;
  const kindChoice = choice('show', kinds.map(kind => [kind, counted(kind)]), value => { wanted.kind = value; });
  const levels = [...new Set(data.benchmarks.flatMap(b => b.questions.map(q => q[3])).filter(level => level !== null))].sort((a, b) => a - b);
  choice('level', levels.length > 1 ? [['', 'all'], ...levels.map(level => [String(level), String(level)])] : [], value => { wanted.level = value; });
  const searching = element('label', 'grow', 'search in problems, completions and answers'), box = element('input');
  box.type = 'search';
  let waiting = 0;
  box.addEventListener('input', () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { wanted.text = box.value.toLowerCase(); update(); }, 200);
  });
  searching.append(box);
  const math = element('label', 'check'), tick = element('input');
  tick.type = 'checkbox';
  tick.checked = true;
  tick.addEventListener('change', () => { wanted.math = tick.checked; update(); });
  math.append(tick, 'render formulas');
  chip.addEventListener('click', () => { wanted.question = null; update(); });
  bar.append(searching, math, chip);
  more.addEventListener('click', grow);
  place.textContent = '';
  place.append(bar, count, list, more);

  // a click on a cell of a heat map asks for its question
  document.querySelectorAll('.plot').forEach(plot => plot.on && plot.on('plotly_click', event => {
    const cell = event.points[0].customdata;
    if (!Array.isArray(cell) || cell.length !== 4) return;
    const [bench, n, model, sample] = cell;
    wanted.question = {bench, question: n, sample};
    wanted.bench = wanted.model = -1;
    wanted.kind = 'all';
    if (model >= 0 && models) wanted.model = model;
    if (models) models.value = wanted.model;
    if (benches) benches.value = -1;
    if (kindChoice) kindChoice.value = 'all';
    update();
    document.getElementById('completions').scrollIntoView({behavior: 'smooth'});
  }));
  update();
})();
