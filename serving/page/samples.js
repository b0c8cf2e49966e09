// A picture for each kind of model, drawn here: [colour, path, width of a stroke or nothing for a filled shape].
const SIZE = 280;
const SEVEN = [["#fff", "M0 0h280v280H0z"], ["#234", "M75 75C120 80 170 78 205 70C180 120 150 170 135 220", 20]];
const SHIP = [
  ["#9cc7ec", "M0 0h280v160H0z"], ["#1f5f94", "M0 160h280v120H0z"], ["#222c3a", "M30 150h220l-24 50H62z"],
  ["#f4f4f0", "M80 112h124v38H80z"], ["#f4f4f0", "M104 88h70v24h-70z"], ["#c0392b", "M126 52h24v36h-24z"],
  ["#b33", "M40 172h200l-12 28H62z"],
];
const lamp = (colour, y) => [colour, `M116 ${y}a24 24 0 1 0 48 0a24 24 0 1 0 -48 0z`];
const LIGHT = [
  ["#a9cdec", "M0 0h280v280H0z"], ["#333", "M132 214h16v66h-16z"],
  ["#1d1f21", "M96 24q0-12 12-12h64q12 0 12 12v184q0 12-12 12h-64q-12 0-12-12z"],
  lamp("#ff2a1a", 52), lamp("#ffb000", 114), lamp("#17b04a", 176),
];
const SAMPLES = [["7", SEVEN], ["ship", SHIP], ["traffic light", LIGHT]];

// {label, shapes} of a picture for a model that knows these labels; undefined if there is none.
export function sampleFor(labels) {
  const found = SAMPLES.find(([label]) => labels.includes(label));
  return found && {label: found[0], shapes: found[1]};
}

export function paint(canvas, shapes) {
  const pen = canvas.getContext("2d");
  pen.setTransform(canvas.width / SIZE, 0, 0, canvas.height / SIZE, 0, 0);
  pen.lineCap = "round";
  for (const [colour, path, width] of shapes) {
    pen.fillStyle = pen.strokeStyle = colour;
    pen.lineWidth = width;
    if (width) pen.stroke(new Path2D(path)); else pen.fill(new Path2D(path));
  }
}
