// Questions to the rows of a waterfall: what failed first and why, which rows decided how long it took.

const FAILED = new Set(["failure", "error", "timeout"]);
export const isFailed = (row) => FAILED.has(row.result);
const endOf = (row) => row.start + (row.length ?? 0);
const earliest = (rows) => rows.reduce((first, row) => !first || endOf(row) < endOf(first) ? row : first, null);

// The failed phase that ended first; of somebody else's spans the failed one that ended first.
export const firstFailure = (rows) => {
  const failed = rows.filter(isFailed);
  return earliest(failed.filter((row) => row.level === "phase")) || earliest(failed.filter((row) => row.depth > 0)) || earliest(failed);
};

export const beneath = (rows, row) => { const at = rows.indexOf(row); return rows.slice(at + 1, at + 1 + row.size); };

// The row that says why a failed one failed: itself, or of what failed beneath it, in its last attempt, the first with an output or an error.
export const causeOf = (rows, row) => {
  if (row.output) return row;
  const inside = beneath(rows, row);
  const attempts = inside.filter((each) => each.level === "attempt" && each.parent === row.id && isFailed(each));
  const failed = (attempts.length ? [attempts.at(-1), ...beneath(rows, attempts.at(-1))] : inside).filter(isFailed);
  return earliest(failed.filter((each) => each.output)) || (row.error ? row : earliest(failed.filter((each) => each.error))) || row;
};

// What a row says went wrong, where that is more than its type.
export const saying = (row) => row.error && row.error !== row.error_type ? row.error : "";

// The time of a row that none of its children fills.
export const selfTime = (rows, row) => {
  let own = row.length ?? 0, until = row.start;
  for (const child of beneath(rows, row).filter((each) => each.parent === row.id)) { // by their starts
    const from = Math.max(until, child.start), to = Math.min(endOf(row), endOf(child));
    if (to > from) { own -= to - from; until = to; }
  }
  return Math.max(0, own);
};

const TOLERANCE = 1000; // µs: an end and the start after it are two readings of a clock

// Ids of the rows without which it would have been over earlier: from the end backwards, each time the child that ended last.
export const criticalPath = (rows) => {
  const children = new Map();
  for (const row of rows) if (row.depth && row.result !== "skip" && row.result !== "waiting") {
    if (!children.has(row.parent)) children.set(row.parent, []);
    children.get(row.parent).push(row);
  }
  const path = new Set();
  const todo = rows.length ? [[rows[0], endOf(rows[0])]] : [];
  while (todo.length) {
    const [row, until] = todo.pop();
    path.add(row.id);
    let at = Math.min(endOf(row), until);
    for (const child of (children.get(row.id) || []).sort((a, b) => endOf(b) - endOf(a))) {
      if (endOf(child) > at + TOLERANCE || child.start >= at) continue;
      todo.push([child, at]);
      at = child.start;
    }
  }
  return path;
};
