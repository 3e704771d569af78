"""The script that draws and corrects boxes in the browser; it saves through the API."""

from __future__ import annotations

EDITOR = """
<style>
#e-editor { position:relative; line-height:0; background:#0b0e13; border-radius:8px; overflow:hidden; touch-action:none; }
#e-editor img { width:100%; height:auto; display:block; user-select:none; -webkit-user-drag:none; }
#e-editor svg { position:absolute; inset:0; width:100%; height:100%; cursor:crosshair; }
#e-items > div { display:flex; gap:8px; align-items:center; padding:4px 0; }
#e-items input { flex:1; min-width:0; border:1px solid var(--line); border-radius:7px; padding:4px 9px; background:transparent; color:var(--ink); }
#e-items i { width:10px; height:10px; border-radius:3px; flex:none; }
#e-items .hint { color:var(--soft); font-size:12px; padding-top:8px; display:block; }
</style>
<script>
(() => {
  const capture = window.edgecCapture;
  const colours = ['#5aa9f7','#3fcf96','#e7b549','#ff7b6b','#b58cf5','#4fd0d6','#f28fc0','#a3d65c'];
  const unit = Math.max(capture.width, capture.height * 4 / 3) / 640;
  let items = capture.items.map(one => ({...one})), drawn = null, svg = null, dirty = false;
  const make = (tag, attributes) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const key in attributes) e.setAttribute(key, attributes[key]); return e; };
  const colour = label => { const names = [...new Set(items.map(one => one.label))].sort();
    return colours[Math.max(names.indexOf(label), 0) % colours.length]; };
  function draw() {
    svg.replaceChildren();
    for (const one of [...items, ...(drawn ? [{label: '', box: drawn}] : [])]) {
      const [l, t, r, b] = one.box || [0, 0, capture.width, capture.height], c = colour(one.label);
      svg.append(make('rect', {x: l, y: t, width: Math.max(r - l, 1), height: Math.max(b - t, 1), fill: c + '18', stroke: c,
        'stroke-width': 2.5 * unit}));
      const text = make('text', {x: l + 3 * unit, y: Math.max(t - 5 * unit, 15 * unit), fill: c, 'font-size': 16 * unit, 'font-weight': 600,
        'paint-order': 'stroke', stroke: '#000b', 'stroke-width': 3 * unit});
      text.textContent = one.label; svg.append(text);
    }
  }
  function list() {
    const place = document.getElementById('e-items');
    place.replaceChildren();
    items.forEach((one, index) => {
      const row = document.createElement('div'), mark = document.createElement('i'), input = document.createElement('input'), gone = document.createElement('button');
      mark.style.background = colour(one.label);
      input.value = one.label; input.setAttribute('list', 'e-labels'); input.setAttribute('aria-label', 'Label ' + (index + 1));
      input.oninput = () => { one.label = input.value; dirty = true; mark.style.background = colour(one.label); draw(); };
      gone.textContent = '✕'; gone.className = 'e-mini bad'; gone.setAttribute('aria-label', 'Remove ' + one.label);
      gone.onclick = () => { items.splice(index, 1); dirty = true; list(); draw(); };
      row.append(mark, input, gone); place.append(row);
    });
    const hint = document.createElement('span'), names = document.createElement('datalist');
    hint.className = 'hint'; hint.textContent = 'Drag over the picture to add a box. Keys: c confirm, s save, d discard, n next.';
    names.id = 'e-labels';
    for (const label of capture.labels) { const o = document.createElement('option'); o.value = label; names.append(o); }
    place.append(hint, names);
  }
  function next() { location.href = capture.next ? '/captures/' + capture.next : '/captures'; }
  async function send(body) {
    const answer = await fetch('/api/v1/captures/' + capture.id, {method: 'PATCH', headers: {'content-type': 'application/json'}, body: JSON.stringify(body)});
    if (answer.ok) next(); else { const p = await answer.json().catch(() => ({})); alert(p.detail || p.title || answer.statusText); }
  }
  const actions = {
    c: () => dirty ? actions.s() : send({state: 'confirmed'}),
    s: () => send({state: 'corrected', annotations: items.map(one => ({label: one.label.trim(), box: one.box || null}))}),
    d: () => confirm('Discard it? The picture is removed for good.') && send({state: 'discarded'}),
    n: next,
  };
  function point(e) { const box = svg.getBoundingClientRect(), clamp = (x, most) => Math.round(Math.min(Math.max(x, 0), most) * 10) / 10;
    return [clamp((e.clientX - box.left) / box.width * capture.width, capture.width), clamp((e.clientY - box.top) / box.height * capture.height, capture.height)]; }
  function begin() {
    const place = document.getElementById('e-editor');
    if (!place) { setTimeout(begin, 50); return; }
    const image = new Image(); image.src = '/api/v1/captures/' + capture.id + '/image'; image.alt = 'The capture'; image.draggable = false;
    image.width = capture.width; image.height = capture.height;
    svg = make('svg', {viewBox: `0 0 ${capture.width} ${capture.height}`, preserveAspectRatio: 'none'});
    place.style.cssText = `max-width:calc(78vh * ${capture.width / capture.height});margin:auto`;
    place.append(image, svg);
    let from = null;
    svg.onpointerdown = e => { from = point(e); svg.setPointerCapture(e.pointerId); };
    svg.onpointermove = e => { if (!from) return; const to = point(e);
      drawn = [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])]; draw(); };
    svg.onpointerup = () => { const box = drawn; from = drawn = null;
      if (box && box[2] - box[0] > 3 && box[3] - box[1] > 3) { items.push({label: capture.labels[0] || 'object', box}); dirty = true; list();
        const inputs = document.querySelectorAll('#e-items input'); inputs[inputs.length - 1].select(); }
      draw(); };
    for (const [id, key] of [['e-confirm', 'c'], ['e-save', 's'], ['e-discard', 'd']]) document.getElementById(id)?.addEventListener('click', actions[key]);
    document.addEventListener('keydown', e => { if (e.ctrlKey || e.metaKey || e.altKey || /INPUT|TEXTAREA|SELECT/.test(e.target.tagName)) return;
      actions[e.key]?.(); });
    list(); draw();
  }
  begin();
})();
</script>
"""
