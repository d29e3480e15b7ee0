// Browsing, thresholds, histograms and the map of the report. No library; everything it shows is in the page's JSON.
'use strict'
const data = JSON.parse(document.getElementById('data').textContent)
const find = (id) => document.getElementById(id)
const whole = (number) => number.toLocaleString('en')
const short = (number) => Number(number.toPrecision(3)).toString()

// An element with properties, attributes and children; text is never parsed as HTML.
function make(name, properties = {}, ...children) {
  const element = document.createElement(name)
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value
    else element.setAttribute(key, value)
  }
  element.append(...children.filter((child) => child !== null))
  return element
}

function draw(name, attributes, text = '') {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name)
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value)
  element.textContent = text
  return element
}

// ---------------------------------------------------------------------------------------------- pictures and stories

function picture(row, scale = 1) {
  const side = data.thumb * scale
  const box = make('div', { className: 'picture' })
  if (row.place === null) {
    box.textContent = 'not shown'
    return box
  }
  const [sheet, left, top, width, height] = row.place
  Object.assign(box.style, {
    width: `${width * scale}px`, height: `${height * scale}px`, margin: `${(side - height * scale) / 2}px ${(side - width * scale) / 2}px`,
    backgroundImage: `url("${data.sheets[sheet]}")`, backgroundSize: `${data.sheet * scale}px auto`,
    backgroundPosition: `${-left * scale}px ${-top * scale}px`,
  })
  return box
}

const title = (row) => `${row.source}/${row.image}` + (row.window ? ` [${row.window[0]}, ${row.window[1]}, ${row.window[2]} x ${row.window[3]}]` : '')

function tile(id, note) {
  const row = data.rows[id]
  const words = note ?? row.detail ?? row.image
  const button = make('button', { type: 'button', className: `tile is-${row.verdict}`, title: title(row) }, picture(row), make('small', {}, words))
  button.dataset.id = id
  button.addEventListener('click', () => tell(id))
  return button
}

function tell(id) {
  const row = data.rows[id]
  const image = data.images[row.of]
  const verdict = (each) => each.verdict + (each.detail ? `: ${each.detail}` : '')
  const parts = [make('h3', {}, title(row)), picture(row, 2)]
  if (row.twin && data.rows[row.twin]) parts.push(make('p', {}, 'stands for it:'), tile(row.twin))
  parts.push(make('p', { className: row.verdict === 'kept' ? 'kept' : 'against' }, verdict(row) + (row.where ? ` in ${row.where}` : '')))
  if (row.gsd !== null) parts.push(make('p', {}, `${short(row.gsd)} m a pixel`))
  if (row.rules.length) parts.push(make('pre', {}, row.rules.join('\n')))
  if (image) parts.push(make('p', {}, `its image (${image.facts}): ${verdict(image)}`), make('pre', {}, image.rules.join('\n')))
  parts.push(make('p', {}, make('small', {}, `rs-curate why OUT ${id}`)))
  find('story').querySelector('div').replaceChildren(...parts)
  if (!find('story').open) find('story').showModal()
}

// A list that shows a page of its items and, on a click, the next.
function paged(items, size, into, button, show) {
  let at = 0
  const next = () => {
    into.append(...items.slice(at, at + size).map(show))
    at += size
    button.hidden = at >= items.length
  }
  into.replaceChildren()
  button.onclick = next
  next()
}

// ---------------------------------------------------------------------------------------------- browse

function browse() {
  const form = find('filters')
  const value = (name) => form.elements[name].value
  const words = value('text').toLowerCase()
  const low = value('low') === '' ? -Infinity : Number(value('low'))
  const high = value('high') === '' ? Infinity : Number(value('high'))
  const ground = (row) => (low === -Infinity && high === Infinity) || (row.gsd !== null && row.gsd >= low && row.gsd <= high)
  const passes = (id) => {
    const row = data.rows[id]
    return row !== undefined && (!value('verdict') || row.verdict === value('verdict')) && (!value('source') || row.source === value('source')) &&
      ground(row) && (!words || `${title(row)} ${row.detail ?? ''} ${id}`.toLowerCase().includes(words))
  }
  const chosen = data.browse.filter(passes)
  const all = value('verdict') ? data.verdicts[value('verdict')] : Object.values(data.verdicts).reduce((sum, each) => sum + each, 0)
  const drawn = data.browse.filter((id) => !value('verdict') || data.rows[id].verdict === value('verdict')).length
  find('shown').firstChild.textContent = `${whole(chosen.length)} of ${whole(drawn)} drawn from ${whole(all)} rows`
  paged(chosen, 60, find('tiles'), find('more'), (id) => tile(id))
  groups(data.groups.filter((each) => each.ids.some(passes)))
}

// ---------------------------------------------------------------------------------------------- figures

function bars(histogram, width = 320, height = 70, against = () => false, marked = -1) {
  const svg = draw('svg', { viewBox: `0 0 ${width} ${height + 12}`, role: 'img' })
  const most = Math.max(...histogram.counts, 1)
  const step = width / histogram.counts.length
  histogram.counts.forEach((count, bin) => {
    const tall = count ? Math.max(1, (Math.log1p(count) / Math.log1p(most)) * height) : 0
    const bar = draw('rect', { class: against(bin) ? 'bar against' : 'bar', x: bin * step, y: height - tall, width: Math.max(step - 0.4, 0.4), height: tall })
    bar.append(draw('title', {}, `${short(histogram.edges[bin])} to ${short(histogram.edges[bin + 1])}: ${whole(count)}`))
    svg.append(bar)
  })
  const ends = [[0, 'start', histogram.edges[0]], [width, 'end', histogram.edges[histogram.edges.length - 1]]]
  if (marked > 0 && marked < histogram.counts.length) ends.push([marked * step, 'middle', histogram.edges[marked]])
  for (const [x, anchor, edge] of ends) svg.append(draw('text', { class: 'axis', x, y: height + 10, 'text-anchor': anchor }, short(edge)))
  return svg
}

function threshold(rule) {
  const least = rule.bound === 'at least'
  const start = rule.edges.findIndex((edge) => Math.abs(edge - rule.value) <= 1e-5 * Math.max(1, Math.abs(rule.value)))
  const speaks = (bin, at) => (least ? bin < at : bin >= at)
  const number = (at) => rule.counts.reduce((sum, count, bin) => sum + (speaks(bin, at) ? count : 0), 0)
  const asked = rule.counts.reduce((sum, count) => sum + count, 0)
  const words = make('p', {})
  const chart = make('div', {})
  const slider = make('input', { type: 'range', min: 0, max: rule.edges.length - 1, value: start, ariaLabel: rule.name })
  const show = () => {
    const at = Number(slider.value)
    const change = number(at) - number(start)
    const more = at === start ? 'as it was used' : `${change < 0 ? '' : '+'}${whole(change)} against ${short(rule.value)}`
    words.replaceChildren(make('b', {}, `${rule.measured} ${rule.bound} ${short(rule.edges[at])}`), ` speaks against ${whole(number(at))} of ${whole(asked)} ${rule.of}s (${more})`)
    chart.replaceChildren(bars(rule, 720, 60, (bin) => speaks(bin, at), start))
  }
  slider.addEventListener('input', show)
  show()
  const near = (side, label) => make('div', {}, make('small', {}, label), make('div', { className: 'sheet' }, ...rule.near[side].filter(([id]) => data.rows[id]).map(([id, away]) => tile(id, `${short(away)} away`))))
  return make('section', { className: 'rule' }, make('h3', {}, rule.name, ' ', make('small', {}, `${rule.verdict}, asked of ${rule.of}s`)), words, chart, slider,
    make('div', { className: 'two' }, near('passed', 'nearest that pass'), near('against', 'nearest that do not')))
}

function group(each) {
  const ids = each.ids.filter((id) => data.rows[id])
  const rest = each.size - ids.length
  return make('div', {}, make('h3', {}, `${whole(each.size)} tiles `, make('small', {}, rest ? `${whole(ids.length)} shown` : '')), make('div', { className: 'sheet' }, ...ids.map((id) => tile(id))))
}

function groups(chosen) {
  if (!data.groupsTotal) return
  const those = chosen.length < data.groups.length ? ` ${whole(chosen.length)} of them pass the filters above.` : ''
  find('groups-lead').textContent = `${whole(data.groupsTotal)} groups; the ${whole(data.groups.length)} largest, the tile that stands for the others first.${those} rs-curate groups OUT lists all.`
  paged(chosen, 8, find('group-list'), find('more-groups'), group)
}

function places() {
  const total = data.cells.reduce((sum, [, , count]) => sum + count, 0)
  if (!total) return
  find('places-lead').textContent = `${whole(total)} kept tiles with coordinates, in cells of ${data.cell} degree.`
  const most = Math.max(...data.cells.map(([, , count]) => count))
  for (const [x, y, count] of data.cells) {
    const radius = 0.8 + 2.2 * (Math.log1p(count) / Math.log1p(most))
    const dot = draw('circle', { class: 'here', cx: (x + 0.5) * data.cell, cy: (y + 0.5) * data.cell, r: radius, 'fill-opacity': 0.7 })
    dot.append(draw('title', {}, `${whole(count)} tiles`))
    find('here').append(dot)
  }
}

// ---------------------------------------------------------------------------------------------- start

find('filters').elements.verdict.append(make('option', { value: '' }, 'all'), ...Object.entries(data.verdicts).map(([name, count]) => make('option', { value: name }, `${name} (${whole(count)})`)))
find('filters').addEventListener('input', browse)
find('filters').addEventListener('submit', (event) => event.preventDefault())
find('story').addEventListener('click', (event) => event.target === find('story') && find('story').close())
browse()
find('rules').append(...data.thresholds.map(threshold))
find('histograms').append(...data.kept.map((each) => make('div', { className: 'card' }, make('small', {}, each.name), bars(each))))
places()
